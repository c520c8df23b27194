package chaos

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestWritesAroundAnAnswerAreSeen(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(p laid)
		says  string
	}{
		"right":          {func(p laid) { p.slots[0].Data[799] = 0 }, ""}, // within the answer: the request looks there
		"behind":         {func(p laid) { p.slots[0].Data[807] = 0 }, "the slot of tensor x has been written to at byte 807, behind its answer of 800"},
		"the input":      {func(p laid) { p.tensors[0].Data[3]++ }, "the request's own tensor x has been written to, at byte 3 of 800"},
		"right, outside": {func(p laid) { p.slots[0].Data = p.slots[0].Data[:10] }, ""}, // too small a slot: the answer travelled
	} {
		y := &yard{tally: newTally()}
		sent := []ipc.Tensor{{Name: "x", DType: "uint64", Shape: []uint64{100}, Data: make([]byte, 800)}}
		p := laid{tensors: []client.Tensor{{Name: "x", Data: make([]byte, 800)}}, slots: []client.Tensor{{Name: "x", Data: make([]byte, 900)}}}
		fill(p.slots[0].Data)
		answer := []client.Tensor{{Name: "x", Data: p.slots[0].Data[:800:800]}}
		tt.spoil(p)
		got := ""
		if err := y.check(p, &ipc.Request{Tensors: sent}, answer); err != nil {
			got = err.Error()
		}
		if got != tt.says {
			t.Errorf("%s: found %q, want %q", name, got, tt.says)
		}
	}
}

func TestWritesAfterTheReleaseAreSeen(t *testing.T) {
	for _, at := range []int{-1, 0, 64<<10 - 1, 64 << 10, 200_000} {
		y := &yard{tally: newTally()}
		trap := client.Tensor{Data: make([]byte, 200_001), At: ipc.Range{Region: 3, Offset: 128}}
		fill(trap.Data)
		if at >= 0 {
			trap.Data[at] ^= 1
		}
		y.look(trap)
		switch broken := y.tally.Broken; {
		case at < 0 && len(broken) > 0:
			t.Errorf("nobody wrote, and %q", broken)
		case at >= 0 && (len(broken) != 1 || !strings.Contains(broken[0], "at 128 of region 3") || spoiled(trap.Data) != at):
			t.Errorf("a write at %d: %q", at, broken)
		}
	}
}

// Most requests with tensors ask to be laid, some with room to spare and some with too little.
func TestWishes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	laid, tight, spare := 0, 0, 0
	for range 1000 {
		r := wish(rng, newTransform(id{}, wide, 0, nil, ipc.Tensor{Name: "x", DType: "uint8", Shape: []uint64{100}, Data: make([]byte, 100)}))
		for _, o := range r.req.Outputs {
			laid++
			switch {
			case o.At.Length < 1:
				t.Error("a slot of nothing")
			case o.At.Length < 100:
				tight++
			case o.At.Length > 100:
				spare++
			}
		}
	}
	if laid < 600 || laid > 900 || tight == 0 || spare < tight {
		t.Errorf("of 1000, %d wish to be laid, %d with too little room and %d with some to spare", laid, tight, spare)
	}
}
