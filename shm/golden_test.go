package shm

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/golden_s2w.bin and .json anew")

const (
	goldenImage  = "testdata/golden_s2w.bin"
	goldenScript = "testdata/golden_s2w.json"
)

// golden describes an image of a segment for implementations in other languages. testdata/golden_s2w.json is its only instance.
type golden struct {
	Description []string `json:"description"`
	Geometry    struct {
		S2WCapacity uint64 `json:"s2w_capacity"`
		W2SCapacity uint64 `json:"w2s_capacity"`
		MaxFrame    uint64 `json:"max_frame"`
		Incarnation string `json:"incarnation"`
		PID         uint32 `json:"pid"`
	} `json:"geometry"`
	Steps   []goldenStep  `json:"steps"`
	S2WTail uint64        `json:"s2w_tail"`
	S2WHead uint64        `json:"s2w_head"`
	Frames  []goldenFrame `json:"unread_frames"`
}

// goldenStep is one thing done to the s2w ring.
type goldenStep struct {
	Op      string `json:"op"` // send or recv
	Message int    `json:"message"`
	Size    int    `json:"size"`
}

type goldenFrame struct {
	Position uint64 `json:"position"`
	Len      uint32 `json:"len"`
	Type     uint16 `json:"type"`
	Flags    uint16 `json:"flags"`
	Seq      uint32 `json:"seq"`
	Guard    uint32 `json:"guard"`
}

var goldenDescription = strings.Split(strings.TrimSpace(`
golden_s2w.bin is a whole segment of 0x2000 + 4096 + 4096 bytes, all zero before the first step but for the header.
The steps are carried out one after the other on the s2w ring: 'send' by the supervisor's producer, 'recv' by the worker's consumer.
Byte i of message m is (7 * i + m) mod 256, i and m counting from 0.
Nobody ever waits, so all words of the semaphores are 0. The w2s ring is untouched: all its words and bytes are 0.
The supervisor state (0x080) is 1, RUN. The worker's words (0x100 to 0x11f) are 0. The supervisor pid (0x020) is 0.
Each recv takes the oldest message: 'message' and 'size' say which one that must be.
Padding bytes after a payload and the bytes of a PAD are undefined, as are bytes before s2w_head that later frames have not overwritten: do not compare them.
unread_frames lists the frames from s2w_head to s2w_tail. Frame position p starts at file offset 0x2000 + p % 4096.
A reader that starts at s2w_head expects the first unread frame's seq and receives the messages that were not received yet.
`), "\n")

var goldenSteps = []goldenStep{
	{"send", 0, 1},
	{"send", 1, 15},
	{"send", 2, 16},
	{"send", 3, 17},
	{"send", 4, 1000},
	{"send", 5, 2500}, // three frames
	{"recv", 0, 1},
	{"recv", 1, 15},
	{"recv", 2, 16},
	{"recv", 3, 17},
	{"recv", 4, 1000},
	{"send", 6, 1008}, // the longest frame, behind a PAD
	{"send", 7, 100},
}

// play carries out the steps on a new segment.
func play(t *testing.T) (*Segment, golden) {
	t.Helper()
	g := Geometry{S2W: 4096, W2S: 4096, Incarnation: 0x1122334455667788}.withDefaults()
	mem := heapBytes(g.Bytes())
	format(mem, g, 0)
	s := newSegment(mem, g, false, nil)
	p, _ := s.Supervisor()
	_, c := s.Worker()
	for _, step := range goldenSteps {
		switch step.Op {
		case "send":
			if _, err := p.Send(content(make([]byte, step.Size), step.Message)); err != nil {
				t.Fatal(err)
			}
		case "recv":
			msg, err := c.Recv(nil, 1<<20)
			if err == nil {
				err = verify(msg, step.Message, step.Size)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	want := golden{Description: goldenDescription, Steps: goldenSteps}
	want.S2WTail, want.S2WHead = s.s2w.tailWord.Load(), s.s2w.headWord.Load()
	want.Geometry.S2WCapacity, want.Geometry.W2SCapacity = g.S2W, g.W2S
	want.Geometry.MaxFrame, want.Geometry.Incarnation = g.MaxFrame, "0x1122334455667788"
	for at := want.S2WHead; at != want.S2WTail; {
		off := s.s2w.offset(at)
		h, guard := decodeHeader(word64(s.s2w.data, off).Load(), word64(s.s2w.data, off+8).Load())
		want.Frames = append(want.Frames, goldenFrame{at, h.len, h.typ, h.flags, h.seq, guard})
		at += frameBytes(uint64(h.len))
	}
	return s, want
}

// TestGolden: this implementation produces the image that every other one is checked against, byte by byte.
func TestGolden(t *testing.T) {
	s, want := play(t)
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	script, err := json.MarshalIndent(want, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	script = append(script, '\n')
	if *update {
		if err := os.WriteFile(goldenImage, s.mem, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenScript, script, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, got := range map[string][]byte{goldenImage: s.mem, goldenScript: script} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs; if the format was meant to change, run with -update", name)
		}
	}
}

// TestGoldenIsReadable receives from the image what it says is unread.
func TestGoldenIsReadable(t *testing.T) {
	image, err := os.ReadFile(goldenImage)
	if err != nil {
		t.Fatal(err)
	}
	g, err := decodeGeometry(image, uint64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	mem := heapBytes(uint64(len(image)))
	copy(mem, image)
	s := newSegment(mem, g, false, nil)
	_, want := play(t)
	_, c := s.Worker()
	c.head, c.tail, c.seq = want.S2WHead, want.S2WHead, want.Frames[0].Seq
	s.Shutdown()
	received := 0
	for _, step := range goldenSteps {
		if step.Op == "recv" {
			received++
		}
	}
	for _, step := range goldenSteps {
		if step.Op != "send" || step.Message < received {
			continue
		}
		msg, err := c.Recv(nil, 1<<20)
		if err == nil {
			err = verify(msg, step.Message, step.Size)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Recv(nil, 1<<20); err != ErrClosed {
		t.Error(err)
	}
}
