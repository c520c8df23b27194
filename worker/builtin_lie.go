package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Where a liar writes: docs/protocol.md, sections 2 and 3. Nothing here touches s2w: a worker that lies about what it has read makes the supervisor run a request twice, and no supervisor can know better.
const (
	lieW2SOffset   = 0x040
	lieW2SCapacity = 0x048
	lieW2S         = 0x1400 // the ring's header
	lieW2STail     = 0x1400
	lieW2SItems    = 0x1500
	lieW2SEnd      = 0x1600
)

// liar is a worker that writes to shared memory by its bare hands what its ring would never say.
type liar struct {
	mem []byte // the segment
}

var lies = map[string]func(*liar){
	"ahead":     func(l *liar) { l.publish(l.word(lieW2STail) + 1<<40) },
	"backwards": func(l *liar) { l.publish(0) },
	"unaligned": func(l *liar) { l.publish(l.word(lieW2STail) + 8) },
	"frame":     (*liar).frame,
	"header":    (*liar).header,
	"payload":   (*liar).payload,
}

// lie scribbles over this process's half of the segment, w2s, in the way that body.how says, and goes on until it is killed. astray answers once, with a tensor that lies where nobody has set memory aside for it. payload writes where other answers may be on their way, so it is
// refused unless this worker does one thing at a time.
func lie(_ context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"how": "header"}`)
	how := a.choice("how", "header", "ahead", "backwards", "unaligned", "frame", "payload", "astray")
	if a.err != nil {
		return nil, a.err
	}
	if how == "payload" && os.Getenv(ipc.ConcurrencyVariable) != "1" {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "lie: payload would change the answers to other requests, which nobody could see; use it in a pool with concurrency: 1")
	}
	if how == "astray" {
		return astray(req), nil
	}
	l, err := newLiar()
	if err != nil {
		return nil, err
	}
	for { // what is said next in good faith puts the positions right again, and may do so before anybody has looked
		lies[how](l)
		time.Sleep(time.Millisecond)
	}
}

// astray answers with a tensor in memory of arenas that is no slot of the request: beside its slot, where its own tensor lies, or in a region that it does not name.
func astray(req *Request) *Reply {
	t := ipc.Tensor{Name: "x", DType: "uint8", Shape: []uint64{64}, Data: make([]byte, 64)}
	at := ipc.Range{Region: 1}
	for _, o := range req.Outputs {
		at = o.At
		at.Offset += 64
	}
	if len(req.Tensors) > 0 && req.Tensors[0].At.Region != 0 && rand.IntN(2) == 0 {
		at = req.Tensors[0].At
	}
	at.Length = uint64(len(t.Data))
	req.Outputs = []ipc.Output{{Name: t.Name, Data: make([]byte, len(t.Data)), At: at}} // what the SDK takes for true
	return &Reply{Tensors: []ipc.Tensor{t}}
}

func newLiar() (*liar, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ipc.SegmentFD, &st); err != nil {
		return nil, fmt.Errorf("lie: fstat of the segment: %w", err)
	}
	mem, err := unix.Mmap(ipc.SegmentFD, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("lie: map the segment: %w", err)
	}
	return &liar{mem: mem}, nil
}

func (l *liar) word(off int) uint64 { return binary.LittleEndian.Uint64(l.mem[off:]) }

// publish moves w2s's tail and wakes the supervisor.
func (l *liar) publish(tail uint64) {
	binary.LittleEndian.PutUint64(l.mem[lieW2STail:], tail)
	binary.LittleEndian.PutUint32(l.mem[lieW2SItems:], 1)
	_, _ = unix.Write(ipc.EventFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// frame publishes a frame with a random header.
func (l *liar) frame() {
	tail := l.word(lieW2STail)
	at := l.word(lieW2SOffset) + tail%l.word(lieW2SCapacity)
	binary.LittleEndian.PutUint64(l.mem[at:], rand.Uint64())
	binary.LittleEndian.PutUint64(l.mem[at+8:], rand.Uint64())
	l.publish(tail + 32)
}

// header scribbles all over the ring's header.
func (l *liar) header() {
	for range 100 {
		off := lieW2S + 8*rand.IntN((lieW2SEnd-lieW2S)/8)
		binary.LittleEndian.PutUint64(l.mem[off:], rand.Uint64()>>rand.IntN(64))
	}
	l.publish(rand.Uint64() >> rand.IntN(64) &^ 15)
}

// payload scribbles all over the ring's bytes, and says that some of them are frames.
func (l *liar) payload() {
	first, n := l.word(lieW2SOffset), l.word(lieW2SCapacity)
	for range 1 << 16 {
		l.mem[first+rand.Uint64N(n)] = byte(rand.Uint32())
	}
	l.publish(l.word(lieW2STail) + 16*(1+rand.Uint64N(1<<12)))
}
