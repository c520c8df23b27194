package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/bench/load"
)

// handler answers a request.
type handler func(ctx context.Context, action string, payload []byte) ([]byte, error)

// work is what every worker in Go does.
func work(_ context.Context, action string, payload []byte) ([]byte, error) {
	switch action {
	case "echo":
		return payload, nil
	case "frame":
		return frame(payload), nil
	case "spin":
		spin(100 * time.Microsecond)
		return payload, nil
	}
	return nil, fmt.Errorf("there is no action %q", action)
}

const (
	cacheLine   = 64
	frameAnswer = 64 // bytes
)

// frame reads every cache line. Its answer begins with the request's first eight bytes and the sum of the first eight bytes of all lines.
func frame(payload []byte) []byte {
	answer := make([]byte, frameAnswer)
	copy(answer[:8], payload)
	binary.LittleEndian.PutUint64(answer[8:], sumLines(payload))
	return answer
}

func sumLines(b []byte) uint64 {
	var sum uint64
	for at := 0; at+8 <= len(b); at += cacheLine {
		sum += binary.LittleEndian.Uint64(b[at:])
	}
	return sum
}

// device is what a worker has one of.
var device sync.Mutex

// spin computes for so long, as a model on a device would: one request at a time.
func spin(d time.Duration) {
	device.Lock()
	defer device.Unlock()
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// checkOf is what an action's answers are held against.
func checkOf(action string) load.Check {
	if action != "frame" {
		return load.Echoed
	}
	// All lines but the first are the same in every request of a requester.
	var rest sync.Map
	return func(p *load.Payload, answer []byte, whole bool) error {
		if len(answer) != frameAnswer {
			return fmt.Errorf("%w: %d bytes", load.ErrWrong, len(answer))
		}
		serial := binary.LittleEndian.Uint64(p.Bytes)
		others, ok := rest.Load(p)
		if !ok || whole {
			others = sumLines(p.Bytes) - serial
			rest.Store(p, others)
		}
		if binary.LittleEndian.Uint64(answer) != serial || binary.LittleEndian.Uint64(answer[8:]) != serial+others.(uint64) {
			return load.ErrWrong
		}
		return nil
	}
}
