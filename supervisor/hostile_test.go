package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// villain is a worker process that does what no worker should, by its bare hands.
type villain struct {
	ring *ipc.Ring
	mem  []byte // the segment
	id   uint64 // of the first request
	sent uint32 // frames in w2s
}

// villainies are what villains do once they have read their first request. They then wait to be killed.
var villainies = map[string]func(*villain){
	// Every one of these breaks the protocol.
	"message: reserved byte":       func(v *villain) { v.send(0xc1) },
	"message: huge array":          func(v *villain) { v.send(0xdd, 0xff, 0xff, 0xff, 0xff) },
	"message: not an array":        func(v *villain) { v.send(2) },
	"message: no id":               func(v *villain) { v.send(0x91, 2) },
	"message: too deep":            func(v *villain) { v.send(append(slices.Repeat([]byte{0x91}, 100), 0)...) },
	"message: cut off":             func(v *villain) { v.send(0x93, 2) },
	"message: trailing bytes":      func(v *villain) { v.send(0x92, 9, 0, 0) },
	"message: field of wrong type": func(v *villain) { v.send(0x93, 2, byte(v.id), 0xa1, 'x') },
	"message: batch of no ids":     func(v *villain) { v.send(0x93, 12, 0, 0x91, 0xa1, 'x') },
	"message: huge batch": func(v *villain) {
		v.send(append([]byte{0x93, 12, 0, 0xdc, 0x04, 0x01}, make([]byte, ipc.MaxBatch+1)...)...)
	},
	"message: tensor in an arena that nobody named": func(v *villain) { v.slot("y", 1, 0, 1) },
	"message: over the limit":                       func(v *villain) { v.send(make([]byte, 4<<20)...) },
	"message: goodbye": func(v *villain) {
		v.send(0x97, 2, 0, 1, 0x80, 0xc0, 0x90, 0x95, 0xa1, 'X', 0xa1, 'y', 0xa1, 'z', 0, 0x80)
	},
	"ring: tail too far":          func(v *villain) { v.publish(v.word(w2sTail) + 1<<40) },
	"ring: tail unaligned":        func(v *villain) { v.publish(v.word(w2sTail) + 8) },
	"ring: tail backwards":        func(v *villain) { v.publish(0) },
	"frame: zeros":                func(v *villain) { v.publish(v.word(w2sTail) + 32) },
	"frame: guard":                func(v *villain) { v.frame(16, 1, 0, v.sent, 1) },
	"frame: sequence":             func(v *villain) { v.frame(16, 1, 0, v.sent+1, 0) },
	"frame: type":                 func(v *villain) { v.frame(16, 3, 0, v.sent, 0) },
	"frame: flags":                func(v *villain) { v.frame(16, 1, 2, v.sent, 0) },
	"frame: empty":                func(v *villain) { v.frame(0, 1, 0, v.sent, 0) },
	"frame: beyond what is there": func(v *villain) { v.frame(17, 1, 0, v.sent, 0) },
	"frame: length overflows":     func(v *villain) { v.frame(0xffffffff, 1, 0, v.sent, 0) },
	"frame: short one with more":  func(v *villain) { v.frame(16, 1, 1, v.sent, 0) },
	"frame: pad in the middle":    func(v *villain) { v.frame(16, 2, 0, v.sent, 0) },
	"scribble":                    func(v *villain) { v.scribble() },

	// So do these, where the request has an output y of 64 bytes at 64 of region 1.
	"slot: another's name": func(v *villain) { v.slot("x", 1, 0x40, 1) },
	"slot: another region": func(v *villain) { v.slot("y", 2, 0x40, 1) },
	"slot: before it":      func(v *villain) { v.slot("y", 1, 0, 1) },
	"slot: in its midst":   func(v *villain) { v.slot("y", 1, 0x7f, 1) },
	"slot: too long":       func(v *villain) { v.slot("y", 1, 0x40, 0x41) },

	// These do not: what they say means nothing, or comes too late.
	"harmless: geometry":       func(v *villain) { clear(v.mem[:0x80]); v.answer() },
	"harmless: advisory state": func(v *villain) { copy(v.mem[0x80:0x200], slices.Repeat([]byte{0xa5}, 0x180)); v.answer() },
	"harmless: unknown ids": func(v *villain) {
		for _, id := range []byte{0, 99, 100, 101} {
			v.send(0x92, 2, id)    // a chunk
			v.send(0x93, 2, id, 1) // an end
			v.send(0x92, 8, id)    // a ping
			v.send(0x93, 8, id, 1) // its answer
		}
		v.answer()
		v.answer()
	},
	"harmless: other kinds": func(v *villain) {
		for kind := range byte(0x80) {
			if kind != 2 {
				v.send(0x92, kind, 0)
				v.send(0x94, kind, 1, 0xc0, 0xc0)
			}
		}
		v.answer()
	},
	"harmless: second hello": func(v *villain) {
		_ = ipc.SendHello(v.ring, ipc.Hello{SDK: "other", Actions: []ipc.Action{{Name: "other"}}})
		v.answer()
	},
	"harmless: half a megabyte on stdout": func(v *villain) {
		fmt.Println(strings.Repeat("x", 512<<10))
		fmt.Print(strings.Repeat("many lines\n", 100))
		v.answer()
	},
}

// Offsets in the segment: docs/protocol.md, sections 2 and 3.
const (
	segmentIncarnation = 0x018
	w2sOffset          = 0x040
	w2sCapacity        = 0x048
	s2wTail            = 0x1000
	s2wHead            = 0x1080
	w2sTail            = 0x1400
	w2sItems           = 0x1500
)

// hostile is the villain's main. Only its first incarnation is one.
func hostile(how string) error {
	if how == "anything" {
		return scribbling()
	}
	marker := os.Getenv("VILLAIN_WAS_HERE")
	if f, err := os.OpenFile(marker, os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return serveTestWorker()
	} else {
		f.Close()
	}
	seg, err := shm.Open(ipc.SegmentFD)
	if err != nil {
		return err
	}
	if err := seg.UseEventfd(ipc.EventFD); err != nil {
		return err
	}
	mem, err := mapSegment()
	if err != nil {
		return err
	}
	v := &villain{ring: ipc.WorkerRing(seg, 1<<30), mem: mem}
	hello := func() error {
		v.sent++
		lie := &ipc.Signature{Inputs: []ipc.Port{{Name: "x", DType: "lies"}}}
		return ipc.SendHello(v.ring, ipc.Hello{SDK: "villain", Actions: []ipc.Action{{Name: "echo", Signature: lie}}, Arena: 1})
	}
	if how == "hello before handshake" {
		if err := hello(); err != nil {
			return err
		}
		for err := os.ErrNotExist; err != nil; {
			_, err = os.Stat(marker + ".go")
		}
		fmt.Println("1|1|unix|fd:4|netrpc")
	} else {
		fmt.Println("1|1|unix|fd:4|netrpc")
		if err := hello(); err != nil {
			return err
		}
	}
	if how == "answer to what it has not read" {
		for v.word(s2wTail) == 0 {
		}
		v.id = 1 // the first there is
		v.chunks(1)
		return unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	for how == "deaf" {
		_ = unix.Pause()
	}
	for { // kinds other than requests are none of its business
		b, err := v.ring.Recv()
		if err != nil {
			return err
		}
		m, err := ipc.Decode(b)
		if err != nil {
			return err
		}
		req, ok := m.(*ipc.Request)
		switch {
		case !ok:
			continue
		case how == "last words":
			v.id = req.ID
			v.answer()
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		case v.id != 0 || how == "hello before handshake": // has done its worst
			v.id = req.ID
			v.answer()
		case how == "stream":
			v.id = req.ID
			v.chunks(20)
		case strings.HasPrefix(how, "head "):
			v.id = req.ID
			v.answer()
			var head uint64
			if _, err := fmt.Sscanf(how, "head %d", &head); err != nil {
				return err
			}
			binary.LittleEndian.PutUint64(v.mem[s2wHead:], v.word(s2wHead)+head)
			for { // reading on would put it right again
				_ = unix.Pause()
			}
		default:
			v.id = req.ID
			villainies[how](v)
		}
	}
}

// mapSegment maps the segment without asking anybody whether it is one.
func mapSegment() ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ipc.SegmentFD, &st); err != nil {
		return nil, err
	}
	return unix.Mmap(ipc.SegmentFD, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func (v *villain) send(message ...byte) {
	_, _ = v.ring.Send(message)
	v.sent++
}

// answer ends the first request.
func (v *villain) answer() { v.send(0x93, 2, 0xcd, byte(v.id>>8), byte(v.id), 1) }

// slot ends the first request with a tensor that is said to be in an arena.
func (v *villain) slot(name string, region, offset, length byte) {
	message := append([]byte{0x96, 2, byte(v.id), 1, 0x80, 0xc0, 0x91, 0x97, 0xa0 + byte(len(name))}, name...)
	v.send(append(message, 0xa5, 'u', 'i', 'n', 't', '8', 0x91, length, 0xc0, region, offset, length)...)
}

func (v *villain) chunks(n int) {
	for range n {
		v.send(0x92, 2, byte(v.id))
	}
}

func (v *villain) word(off int) uint64 { return binary.LittleEndian.Uint64(v.mem[off:]) }

// publish moves the tail of w2s and wakes the supervisor.
func (v *villain) publish(tail uint64) {
	binary.LittleEndian.PutUint64(v.mem[w2sTail:], tail)
	binary.LittleEndian.PutUint32(v.mem[w2sItems:], 1)
	v.wake()
}

// wake has the supervisor look, if it sleeps.
func (v *villain) wake() {
	_, _ = unix.Write(ipc.EventFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// frame publishes 32 bytes that begin with this header; flip spoils its guard.
func (v *villain) frame(length uint32, typ, flags uint16, seq, flip uint32) {
	tail := v.word(w2sTail)
	b := v.mem[v.word(w2sOffset)+tail%v.word(w2sCapacity):]
	binary.LittleEndian.PutUint32(b, length)
	binary.LittleEndian.PutUint16(b[4:], typ)
	binary.LittleEndian.PutUint16(b[6:], flags)
	binary.LittleEndian.PutUint32(b[8:], seq)
	binary.LittleEndian.PutUint32(b[12:], 0x5AFEC0DE^length^(uint32(typ)|uint32(flags)<<16)^seq^uint32(v.word(segmentIncarnation))^flip)
	v.publish(tail + 32)
}

// scribble writes random bytes all over the segment until it is killed.
func (v *villain) scribble() {
	for {
		for range 1000 {
			off := 0x1000 + 8*rand.IntN(0x100)
			binary.LittleEndian.PutUint64(v.mem[off:], rand.Uint64()>>rand.IntN(64))
			v.mem[rand.IntN(len(v.mem))] = byte(rand.Uint32())
		}
		v.publish(rand.Uint64() >> rand.IntN(64) &^ 15)
	}
}

// villainPool is a pool whose first worker is a villain.
func villainPool(t *testing.T, how string) PoolConfig {
	return PoolConfig{
		Name: "test", Command: []string{testBinary(t), "hostile", how},
		Env: map[string]string{"VILLAIN_WAS_HERE": filepath.Join(t.TempDir(), "villain")},
	}
}

// other is a pool that has nothing to do with the one under test.
func other() PoolConfig { return PoolConfig{Name: "other", Builtin: "echo"} }

func TestWorkerThatBreaksTheProtocolIsDiscarded(t *testing.T) {
	for how := range villainies {
		if strings.HasPrefix(how, "harmless") {
			continue
		}
		t.Run(how, func(t *testing.T) {
			h := run(t, villainPool(t, how), other()).waitReady()
			held := h.hold("other")
			_, err := h.call(testContext(t), request(t, "test", "echo", nil))
			if how != "scribble" || err != nil { // it may have scribbled that it has not read the request, which then went to the next one
				wantError(t, err, ipc.Aborted, "worker_lost")
			}
			if exit := h.lastExit(); exit.Cause != "protocol" || !strings.HasSuffix(exit.Detail, "(signal: killed)") {
				t.Errorf("last exit %+v", exit)
			}
			h.must("echo", nil, nil) // the next one is all right
			if err := held.finish(); err != nil {
				t.Errorf("a request to another pool: %v", err)
			}
			if w := h.worker("other", 0); w.Restarts != 0 {
				t.Errorf("the other pool's worker was restarted: %+v", w)
			}
		})
	}
}

func TestHarmlessNonsenseIsIgnored(t *testing.T) {
	for how := range villainies {
		if !strings.HasPrefix(how, "harmless") {
			continue
		}
		t.Run(how, func(t *testing.T) {
			h := runWith(t, func(s *Supervisor) { s.endGrace = time.Millisecond }, villainPool(t, how)).waitReady() // it does not know drain
			pid := h.worker("test", 0).PID
			h.must("echo", nil, nil)
			h.must("echo", nil, nil)
			if w := h.worker("test", 0); w.PID != pid || w.State != "ready" || w.SDK != "villain" || w.InFlight != 0 {
				t.Errorf("status %+v", w)
			}
			if lies := h.byName("test").status().Signatures; lies != nil {
				t.Errorf("what it says of its actions: %+v", lies)
			}
		})
	}
}

// A position is looked at when it is needed. This one says that the ring has no room, or more than there is; it is found out by the request that needs it, which then goes elsewhere.
func TestHeadThatCannotBe(t *testing.T) {
	for name, head := range map[string]uint64{"ahead": 1 << 40, "behind": ^uint64(0) - 1<<40 + 1, "unaligned": 2<<20 + 8} {
		t.Run(name, func(t *testing.T) {
			h := run(t, villainPool(t, fmt.Sprint("head ", head))).waitReady()
			h.must("echo", nil, nil)
			h.must("echo", make([]byte, 9<<20), nil)
			if exit := h.lastExit(); exit.Cause != "protocol" {
				t.Errorf("last exit %+v", exit)
			}
		})
	}
}

// Nobody takes replies here, so those beyond the credit have nowhere to go.
func TestMoreRepliesThanItsCredit(t *testing.T) {
	h := run(t, villainPool(t, "stream")).waitReady()
	ctx := testContext(t)
	req := request(t, "test", "echo", nil)
	replies, err := h.Call(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if exit := h.lastExit(); exit.Cause != "protocol" || !strings.Contains(exit.Detail, "more replies to request 1 than it was granted") {
		t.Errorf("last exit %+v", exit)
	}
	for range req.Credit {
		if _, err := replies.Recv(ctx); err != nil {
			t.Fatal(err)
		}
	}
	_, err = replies.Recv(ctx)
	wantError(t, err, ipc.Aborted, "worker_lost")
	h.must("echo", nil, nil)
}

// go-plugin hands the handshake on by way of a few goroutines: a quick worker's hello comes first.
func TestHelloBeforeHandshake(t *testing.T) {
	cfg := villainPool(t, "hello before handshake")
	h := runWith(t, func(s *Supervisor) { s.endGrace = time.Millisecond }, cfg)
	sl := h.all()[0].slots[0]
	h.await("test", "the hello", func(PoolStatus) bool { return sl.inc != nil && len(sl.inc.hello) == 1 })
	if sl := h.worker("test", 0); sl.State != "starting" {
		t.Fatalf("%s before the handshake", sl.State)
	}
	if err := os.WriteFile(cfg.Env["VILLAIN_WAS_HERE"]+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.waitReady().must("echo", nil, nil)
}

// An END that was committed before the worker died counts.
func TestLastWordsCount(t *testing.T) {
	for range 10 {
		h := run(t, villainPool(t, "last words")).waitReady()
		h.must("echo", nil, nil)
		if exit := h.lastExit(); exit.Cause != "signal" || exit.Detail != "signal: killed" {
			t.Errorf("last exit %+v", exit)
		}
		h.stop()
	}
}

// A request that got an answer cannot begin again elsewhere, even if its worker seems not to have read it.
func TestAnswerToWhatWasNotRead(t *testing.T) {
	h := run(t, villainPool(t, "answer to what it has not read")).waitReady()
	ctx := testContext(t)
	replies, err := h.Call(ctx, request(t, "test", "echo", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replies.Recv(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = replies.Recv(ctx)
	wantError(t, err, ipc.Aborted, "worker_lost")
	if _, err := replies.Recv(ctx); !errors.Is(err, io.EOF) {
		t.Fatalf("%v after the end", err)
	}
}
