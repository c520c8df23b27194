package main

import (
	wire "encoding/binary"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// peakRSS is the most memory that a process has had resident, in bytes, as the kernel counts it.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// hoard sends requests of 64 MiB over a connection of its own, one after the other, and never reads, until the server has had enough of it.
func hoard(socket string, begun *atomic.Int64) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	sock := ipc.NewSocket(conn, ipc.DefaultMaxMessage, 0)
	if _, err := ipc.ClientHello(sock, "hoard"); err != nil {
		return
	}
	piece := make([]byte, 1<<20)
	for id := byte(1); ; id++ {
		// [1, id, "echo", "sleep", "", context], the context filling what is left of the largest message there may be
		head := append([]byte{0x96, 1, 0xcc, id, 0xa4}, "echo\xa5sleep\xa0"...)
		left := ipc.DefaultMaxMessage - len(head) - 5
		head = wire.BigEndian.AppendUint32(append(head, 0xc6), uint32(left))
		if _, err := conn.Write(append(wire.LittleEndian.AppendUint32(nil, ipc.DefaultMaxMessage), head...)); err != nil {
			return
		}
		for ; left > 0; left -= len(piece) {
			if _, err := conn.Write(piece[:min(left, len(piece))]); err != nil {
				return
			}
		}
		begun.Add(1)
	}
}

// However much clients send at once, the server's memory stays within what it was given, and others are served.
func TestMemoryIsBounded(t *testing.T) {
	const memory = 256 << 20
	s := serve(t, "memory: 256MiB\npools: {echo: {builtin: echo, workers: 2, concurrency: 8}}\n")
	before := peakRSS(t, s.cmd.Process.Pid)
	var all sync.WaitGroup
	var sent atomic.Int64
	for range 48 {
		all.Go(func() { hoard(s.socket, &sent) })
	}
	eventually(t, "requests of 64 MiB to be sent", func() bool { return sent.Load() >= 100 })
	for range 5 {
		if r := s.run("call", "echo", "echo", "-d", "1", "--timeout", "20s"); r.code != 0 {
			t.Errorf("a polite client: %+v", r)
		}
	}
	if r := s.run("status"); r.code != 0 {
		t.Errorf("status: %+v", r)
	}
	peak := peakRSS(t, s.cmd.Process.Pid)
	t.Logf("at most %d MiB resident, %d MiB before; %d requests of 64 MiB were sent", peak>>20, before>>20, sent.Load())
	if !raceFlag && peak > before+memory+memory/2 {
		t.Errorf("%d MiB were resident, of a budget of %d MiB", peak>>20, memory>>20)
	}
	s.signal(syscall.SIGTERM)
	s.wait()
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("a connection outlives the server")
	}
	contains(t, "the log", s.log.String(), "client refused", "memory_full")
}
