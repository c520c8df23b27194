package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// villains are clients that behave badly. Each runs in a process of its own, on connections of its own, says with bite when it has begun to hurt, and goes on until it is killed.
var villains = map[string]func(v *villainy){
	"stops reading in mid-stream": func(v *villainy) {
		conns := v.open(16)
		for _, c := range conns {
			for id := range byte(8) {
				c.send(request(id+1, "stream"), credit(id+1))
			}
		}
		for _, c := range conns {
			c.filled()
		}
		v.bite()
	},
	"disconnects in mid-request": func(v *villainy) {
		v.each(func(c *villainConn) { c.send(hello, request(1, "block"), request(2, "stream")) })
	},
	"disconnects in mid-frame": func(v *villainy) {
		v.each(func(c *villainConn) { c.send(hello, length(1<<20), make([]byte, 1000)) })
	},
	"says half a hello and waits": func(v *villainy) {
		for range 40 {
			v.dial().send(hello[:6])
		}
		v.bite()
	},
	"dribbles": func(v *villainy) {
		conns := v.open(16)
		for _, c := range conns {
			c.send(length(1 << 20))
		}
		v.bite()
		for {
			for _, c := range conns {
				c.send([]byte{0})
			}
			<-time.After(time.Millisecond)
		}
	},
	"floods with pings, cancels and credits": func(v *villainy) {
		conns := v.open(4)
		var flood []byte
		for id := range byte(100) {
			flood = append(flood, frame(0x92, 8, id)...)
			flood = append(flood, frame(0x92, 3, id)...)
			flood = append(flood, credit(id)...)
		}
		v.bite()
		for {
			for i, c := range conns {
				if c.write(flood) != nil {
					conns[i] = v.open(1)[0]
				}
			}
		}
	},
	"floods with requests and never reads": func(v *villainy) {
		conns := v.open(8)
		for _, c := range conns {
			go func() {
				for id := range 10 * 1024 {
					if c.write(frame(0x94, 1, 0xcd, byte((id+1)>>8), byte(id+1), 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k')) != nil {
						return // it has been thrown out
					}
				}
			}()
		}
		v.bite()
	},
	"opens and closes connections": func(v *villainy) {
		v.each(func(*villainConn) {})
	},
	"sends large requests on many connections": func(v *villainy) {
		conns := v.open(32)
		large := append(length(4<<20), 0x95, 1, 1, 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k', 0xc6, 0, 0x3f, 0xff, 0xef)
		large = append(large, make([]byte, 4+4<<20-len(large))...)
		for _, c := range conns {
			go func() {
				for c.write(large) == nil { // the first blocks or is refused; the others have the same id, or are refused
					continue
				}
			}()
		}
		v.bite()
	},
}

// villainy is a villain at work.
type villainy struct {
	path  string
	bites bool
}

// villain is the child's main: it does what it is named for until its standard input ends.
func villain(what, path string) {
	go villains[what](&villainy{path: path})
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func (v *villainy) bite() {
	if !v.bites {
		v.bites = true
		fmt.Println("ready")
	}
}

// each makes one connection after the other, as fast as it can, and closes each after doing something with it.
func (v *villainy) each(do func(*villainConn)) {
	for i := 0; ; i++ {
		c := v.dial()
		do(c)
		_ = c.Close()
		if i == 100 {
			v.bite()
		}
	}
}

// dial connects, as often as it takes.
func (v *villainy) dial() *villainConn {
	for {
		if c, err := net.Dial("unix", v.path); err == nil {
			return &villainConn{c}
		}
	}
}

// open makes connections and says hello on them.
func (v *villainy) open(n int) []*villainConn {
	var conns []*villainConn
	for len(conns) < n {
		c := v.dial()
		c.send(hello)
		conns = append(conns, c)
	}
	return conns
}

type villainConn struct{ net.Conn }

// send writes what it can.
func (c *villainConn) send(parts ...[]byte) {
	_, _ = c.Write(bytes.Join(parts, nil))
}

func (c *villainConn) write(b []byte) error {
	_, err := c.Write(b)
	return err
}

// filled waits until the server has something to say to it, without taking much of it.
func (c *villainConn) filled() { _, _ = c.Read(make([]byte, 1)) }

func length(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func request(id byte, action string) []byte {
	return frame(append([]byte{0x94, 1, id, 0xa1, 'p', 0xa0 | byte(len(action))}, action...)...)
}

func credit(id byte) []byte { return frame(0x93, 4, id, 0xcd, 0xff, 0xff) }

// startVillain starts a villain and waits until it bites. It is killed when the test ends, or by what is returned.
func startVillain(t *testing.T, what, path string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GATEWAY_TEST_VILLAIN="+what, "GATEWAY_TEST_SOCKET="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = stdin.Close()
		}
	}
	t.Cleanup(kill)
	bitten := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(stdout).ReadString('\n')
		bitten <- err
	}()
	if err := await(t, bitten, "the villain to bite"); err != nil {
		t.Fatal(err)
	}
	return kill
}

// Beside any villain a polite client gets all its answers, soon, and when the villain is gone nothing of it is left.
func TestVillainsHurtOnlyThemselves(t *testing.T) {
	for what := range villains {
		t.Run(what, func(t *testing.T) {
			f := newFake()
			f.chunk = sizedBody(1 << 16)
			s := start(t, f, Config{
				MaxMessage: 4 << 20, Memory: 64 << 20, StallTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second, helloTimeout: time.Second,
			})
			kill := startVillain(t, what, s.path)
			polite := dial(t, s.path)
			var took []time.Duration
			for begin := time.Now(); time.Since(begin) < 500*time.Millisecond || len(took) < 200; {
				start := time.Now()
				polite.echo(t)
				if len(took)%50 == 0 {
					newcomer := dial(t, s.path) // somebody new gets in, too
					newcomer.echo(t)
					newcomer.hangUp()
				}
				took = append(took, time.Since(start))
				if used := s.clients.memory.Used(); used > s.cfg.Memory {
					t.Fatalf("%d bytes are charged, of %d", used, s.cfg.Memory)
				}
			}
			slices.Sort(took)
			t.Logf("%d requests: median %v, worst %v", len(took), took[len(took)/2], took[len(took)-1])
			if median := took[len(took)/2]; median > 100*time.Millisecond {
				t.Errorf("the median of a polite client's requests is %v", median)
			}
			kill()
			eventually(t, "the villain's connections and memory to be free", func() bool {
				s.clients.mu.Lock()
				defer s.clients.mu.Unlock()
				return s.clients.open == 1 && s.clients.memory.Used() == 0
			})
			polite.echo(t)
		})
	}
}

// A client that dribbles, or has said half a hello, is thrown out even if it stays.
func TestDribblersAreThrownOut(t *testing.T) {
	for _, what := range []string{"dribbles", "says half a hello and waits", "stops reading in mid-stream", "floods with requests and never reads"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			f.chunk = sizedBody(1 << 16)
			timeout := 500 * time.Millisecond // for the polite one as well, on a busy machine
			s := start(t, f, Config{ReadTimeout: timeout, WriteTimeout: timeout, helloTimeout: timeout})
			startVillain(t, what, s.path)
			polite := dial(t, s.path)
			eventually(t, "the villain's connections to be closed", func() bool {
				polite.echo(t)
				s.clients.mu.Lock()
				defer s.clients.mu.Unlock()
				return s.clients.open == 1 && s.clients.memory.Used() == 0
			})
		})
	}
}

func sizedBody(n int) ipc.Body {
	return append(binary.BigEndian.AppendUint32([]byte{0xc6}, uint32(n)), make([]byte, n)...)
}

// eventually waits until a condition holds that other goroutines make true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Those who are refused and stay are shown the door once there are many of them, so that refusing cannot be made to cost more than serving.
func TestTheRefusedAreFew(t *testing.T) {
	s := start(t, newFake(), Config{MaxConnections: 1})
	polite := dial(t, s.path)
	var refused []net.Conn
	for range 4 * maxParting { // none says hello
		refused = append(refused, connect(t, s.path))
		if n := len(s.parting); n > maxParting {
			t.Fatalf("%d are being refused at a time", n)
		}
	}
	for _, c := range refused {
		wantClosed(t, c)
		polite.echo(t)
	}
	_, err := ipc.ClientHello(ipc.NewSocket(connect(t, s.path), 1<<20, patience), "test")
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_connections") // there is time to explain again
}
