package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-zeromq/zmq4"
)

// ZeroMQ as its guide has it: DEALER to ROUTER, over ipc. The library is the one in pure Go, so that the peers build without a C library.

func serveZMQ(socket string, h handler) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := zmq4.NewRouter(ctx)
	if err := s.Listen("ipc://" + socket); err != nil {
		cancel()
		return nil, err
	}
	var mu sync.Mutex // one sender at a time
	var all sync.WaitGroup
	all.Go(func() {
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			if len(m.Frames) != 4 { // identity, number, action, payload
				continue
			}
			all.Go(func() {
				payload, err := h(ctx, string(m.Frames[2]), m.Frames[3])
				status := ""
				if err != nil {
					status = err.Error()
				}
				mu.Lock()
				defer mu.Unlock()
				_ = s.SendMulti(zmq4.NewMsgFrom(m.Frames[0], m.Frames[1], []byte(status), payload))
			})
		}
	})
	return func() {
		cancel()
		_ = s.Close()
		all.Wait()
	}, nil
}

type viaZMQ struct {
	s      zmq4.Socket
	cancel context.CancelFunc
	ended  chan struct{}

	send    sync.Mutex // one sender at a time
	mu      sync.Mutex
	last    uint64                   // guarded by mu
	waiting map[uint64]chan zmq4.Msg // guarded by mu
}

func dialZMQ(_ context.Context, socket string) (caller, error) {
	ctx, cancel := context.WithCancel(context.Background())
	v := &viaZMQ{s: zmq4.NewDealer(ctx), cancel: cancel, ended: make(chan struct{}), waiting: map[uint64]chan zmq4.Msg{}}
	if err := v.s.Dial("ipc://" + socket); err != nil {
		cancel()
		return nil, err
	}
	go v.receive()
	return v, nil
}

func (v *viaZMQ) receive() {
	defer close(v.ended)
	for {
		m, err := v.s.Recv()
		if err != nil {
			return
		}
		if len(m.Frames) != 3 || len(m.Frames[0]) != 8 {
			continue
		}
		id := binary.LittleEndian.Uint64(m.Frames[0])
		v.mu.Lock()
		to := v.waiting[id]
		delete(v.waiting, id)
		v.mu.Unlock()
		if to != nil {
			to <- m
		}
	}
}

func (v *viaZMQ) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	reply := make(chan zmq4.Msg, 1)
	v.mu.Lock()
	v.last++
	id := v.last
	v.waiting[id] = reply
	v.mu.Unlock()
	v.send.Lock()
	err := v.s.SendMulti(zmq4.NewMsgFrom(binary.LittleEndian.AppendUint64(nil, id), []byte(action), payload))
	v.send.Unlock()
	if err != nil {
		return nil, fmt.Errorf("zmq: %w", err)
	}
	select {
	case m := <-reply:
		if len(m.Frames[1]) > 0 {
			return nil, errors.New(string(m.Frames[1]))
		}
		return m.Frames[2], nil
	case <-v.ended:
		return nil, io.ErrUnexpectedEOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *viaZMQ) close() error {
	v.cancel()
	err := v.s.Close()
	<-v.ended
	return err
}
