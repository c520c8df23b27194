package main

import (
	wire "encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
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

// residentMost is how much may be resident: where limitHeap begins to collect, and the rings of two workers, the program, and what is garbage at that moment.
func residentMost(memory int64) int64 { return memory + memory/4 + heapSlack + 64<<20 }

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
	if most := residentMost(memory); !raceFlag && peak > most {
		t.Errorf("%d MiB were resident, with a budget of %d MiB at most %d may be", peak>>20, memory>>20, most>>20)
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
	s.logged("client refused", "memory_full")
}

// Streams that nobody reads do not fill the server's memory, and those that find no room there end; others are served meanwhile.
func TestStreamsThatNobodyReads(t *testing.T) {
	const memory, connections = 256 << 20, 16
	s := serve(t, "memory: 256MiB\npools: {echo: {builtin: echo, workers: 2, concurrency: 64}}\n")
	before := peakRSS(t, s.cmd.Process.Pid)
	text, err := ipc.Marshal(map[string]any{"n": 1000, "text": strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	var all sync.WaitGroup
	for range connections {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := ipc.ClientHello(ipc.NewSocket(conn, ipc.DefaultMaxMessage, 0), "deaf"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		all.Go(func() {
			for id := range byte(6) { // later ones may be refused, and the connection lost because nobody reads that
				// [1, id, "echo", "count", "", b"", 0, 2^32-1, {}, body]
				message := append([]byte{0x9a, 1, id + 1, 0xa4}, "echo\xa5count\xa0\xc4\x00\x00\xce\xff\xff\xff\xff\x80"...)
				message = append(message, text...)
				if _, err := conn.Write(append(wire.LittleEndian.AppendUint32(nil, uint32(len(message))), message...)); err != nil {
					return
				}
			}
		})
	}
	eventually(t, "the streams to begin", func() bool { return inFlight(s) >= connections })
	for range 5 {
		if r := s.run("call", "echo", "echo", "-d", "1", "--timeout", "20s"); r.code != 0 {
			t.Errorf("a polite client: %+v", r)
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
	all.Wait()
	eventually(t, "the workers to be told", func() bool { return inFlight(s) == 0 })
	peak := peakRSS(t, s.cmd.Process.Pid)
	t.Logf("at most %d MiB resident, %d MiB before", peak>>20, before>>20)
	if most := residentMost(memory); !raceFlag && peak > most {
		t.Errorf("%d MiB were resident, with a budget of %d MiB at most %d may be", peak>>20, memory>>20, most>>20)
	}
}

// inFlight asks by a process of its own, which is not what this one has become to the server.
func inFlight(s *server) int {
	s.t.Helper()
	var status supervisor.Status
	if r := s.run("status", "--json"); r.code != 0 {
		s.t.Fatalf("status: %+v", r)
	} else if err := json.Unmarshal([]byte(r.out), &status); err != nil {
		s.t.Fatal(err)
	}
	return status.Pools[0].InFlight
}
