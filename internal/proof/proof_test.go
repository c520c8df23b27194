package proof

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestSumDependsOnEverything(t *testing.T) {
	tensors := func(name string, data ...byte) []ipc.Tensor { return []ipc.Tensor{{Name: name, Data: data}} }
	sums := []string{
		Sum("a", nil, nil),
		Sum("b", nil, nil),
		Sum("a", []byte{1}, nil),
		Sum("a", []byte{2}, nil),
		Sum("a", []byte{1}, tensors("x", 1)),
		Sum("a", []byte{1}, tensors("y", 1)),
		Sum("a", []byte{1}, tensors("x", 2)),
	}
	slices.Sort(sums)
	if n := len(slices.Compact(sums)); n != 7 {
		t.Errorf("7 requests have %d sums", n)
	}
}

func TestMixIsItsOwnInverse(t *testing.T) {
	data := []byte("0123456789abcdefxyz")
	mixed := Mix(data, Mask("nonce"))
	if bytes.Equal(mixed[:8], data[:8]) || bytes.Equal(mixed[8:16], data[8:16]) || !bytes.Equal(mixed[16:], data[16:]) {
		t.Errorf("%q became %q", data, mixed)
	}
	if back := Mix(mixed, Mask("nonce")); !bytes.Equal(back, data) {
		t.Errorf("and back: %q", back)
	}
	if Mask("nonce") == Mask("other") {
		t.Error("two nonces have one mask")
	}
}

// The Python worker makes the same; these are its values.
func TestGolden(t *testing.T) {
	if got, want := Sum("0000000000000001", []byte("data"), []ipc.Tensor{{Name: "x", Data: []byte("01234567")}}), goldenSum; got != want {
		t.Errorf("sum %s, want %s", got, want)
	}
	if got := Mask("0000000000000001"); got != goldenMask {
		t.Errorf("mask %#x, want %#x", got, uint64(goldenMask))
	}
	c := NewChain("0000000000000001")
	c.Next(40)
	if data, sum := c.Next(3); sum != goldenChain || len(data) != 3 {
		t.Errorf("chain %s, want %s", sum, goldenChain)
	}
}

const (
	goldenSum   = "f65ea2e9933373005fd6c6f4579c368752ecad94e396d0daf24bf04c7ddbed66"
	goldenMask  = 0x31b0f62748995e66
	goldenChain = "c404ec2c192d2faa751c61e33cbdb1b388a524f14e86eea26d1768a55d3d4b8b"
)
