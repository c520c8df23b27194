package gateway

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// How long hostile clients go on, and from which seed on: RINGMASTER_FUZZ=5m RINGMASTER_FUZZ_SEED=123 go test ./gateway -run TestHostileClients -v
const hostileTime = 2 * time.Second

// hostile is a client that sends anything at all; what it sends is drawn from one seed.
type hostile struct{ r *rand.Rand }

// bytes is one thing that it sends: noise, a whole frame, half of one, a length without a frame, many of the same.
func (h hostile) bytes() []byte {
	requests := [][]byte{
		frame(0x94, 1, 9, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o'),
		frame(0x94, 1, 10, 0xa1, 'p', 0xa6, 's', 't', 'r', 'e', 'a', 'm'),
		frame(0x94, 1, 11, 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k'),
		frame(0x93, 4, 10, 100),
		frame(0x92, 3, 11),
		frame(0x92, 8, 1),
		hello,
		[]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
		[]byte("POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"p.block\",\"id\":1}"),
		[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
	}
	b := bytes.Clone(requests[h.r.IntN(len(requests))])
	switch h.r.IntN(7) {
	case 0: // noise
		b = b[:0]
		for range h.r.IntN(1 << h.r.IntN(14)) {
			b = append(b, byte(h.r.Uint32()))
		}
	case 1: // almost a frame
		for range 1 + h.r.IntN(3) {
			b[h.r.IntN(len(b))] ^= 1 << h.r.IntN(8)
		}
	case 2: // half a frame
		b = b[:h.r.IntN(len(b))]
	case 3: // a length alone
		b = binary.LittleEndian.AppendUint32(nil, h.r.Uint32()>>h.r.IntN(32))
	case 4: // a flood, with other ids where there is one
		one := bytes.Clone(b)
		for i := range h.r.IntN(2000) {
			one[min(6, len(one)-1)] = byte(i)
			b = append(b, one...)
		}
	}
	return b
}

// attack makes one connection, and leaves it in one way or another.
func (h hostile) attack(t *testing.T, path string) {
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Error(err)
		return
	}
	conn := raw.(*net.UnixConn)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond)) // the server may well wait for more
	var reader sync.WaitGroup
	defer reader.Wait()
	if h.r.IntN(3) > 0 { // else it reads nothing
		reader.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	}
	if h.r.IntN(4) > 0 {
		_, _ = conn.Write(hello)
	}
	for range h.r.IntN(8) {
		if _, err := conn.Write(h.bytes()); err != nil {
			break
		}
	}
	switch h.r.IntN(3) {
	case 0:
		_ = conn.CloseWrite()
	case 1:
		_ = conn.Close()
	}
}

// Whatever clients send, and however they leave, others are served as before, and the server keeps nothing of them.
func TestHostileClients(t *testing.T) {
	duration, seed := hostileTime, uint64(rand.Uint32())
	if text := os.Getenv("RINGMASTER_FUZZ"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("RINGMASTER_FUZZ_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RINGMASTER_FUZZ_SEED=%d", seed)
	s := start(t, newFake(), Config{MaxMessage: 1 << 16, MaxInFlight: 64, StallTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond, helloTimeout: 100 * time.Millisecond})
	neighbour := dial(t, s.path)
	neighbour.echo(t)
	working := func() int { return runtime.NumGoroutine() - s.crew.Waiting() }
	goroutines, fds := working(), openFDs(t)

	end := time.Now().Add(duration)
	var attackers sync.WaitGroup
	attacks := make([]int, 8)
	for i := range attacks {
		attackers.Go(func() {
			for time.Now().Before(end) {
				hostile{rand.New(rand.NewPCG(seed, uint64(i)<<32+uint64(attacks[i])))}.attack(t, s.path)
				attacks[i]++
			}
		})
	}
	slowest := time.Duration(0)
	echoes := 0
	for time.Now().Before(end) {
		begin := time.Now()
		neighbour.echo(t)
		slowest = max(slowest, time.Since(begin))
		echoes++
	}
	attackers.Wait()
	t.Logf("attacks %v; %d echoes beside them, the slowest took %v", attacks, echoes, slowest)
	if slowest > 5*time.Second {
		t.Errorf("an echo took %v", slowest)
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for working() > goroutines || openFDs(t) > fds {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d descriptors, before %d and %d", working(), openFDs(t), goroutines, fds)
		}
		<-tick.C
	}
	neighbour.echo(t)
}
