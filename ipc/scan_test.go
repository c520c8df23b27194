package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// check is what Scan does, written the obvious way: one function for each rule, recursive, slow. It returns the value's length.
func check(b []byte, depth int) (int, error) {
	if len(b) == 0 {
		return 0, errors.New("cut off")
	}
	take := func(n uint64) (int, error) {
		if n > uint64(len(b)) {
			return 0, errors.New("cut off")
		}
		return int(n), nil
	}
	length := func(width int) (uint64, error) {
		if 1+width > len(b) {
			return 0, errors.New("cut off")
		}
		var wide [8]byte
		copy(wide[8-width:], b[1:1+width])
		return binary.BigEndian.Uint64(wide[:]), nil
	}
	sized := func(width int, extra uint64) (int, error) {
		n, err := length(width)
		if err != nil {
			return 0, err
		}
		return take(1 + uint64(width) + extra + n)
	}
	elements := func(header int, n uint64) (int, error) {
		if n > uint64(len(b)-header) {
			return 0, errors.New("more elements than bytes")
		}
		if n > 0 && depth == maxDepth {
			return 0, errors.New("too deep")
		}
		at := header
		for range n {
			used, err := check(b[at:], depth+1)
			if err != nil {
				return 0, err
			}
			at += used
		}
		return at, nil
	}
	counted := func(width int, each uint64) (int, error) {
		n, err := length(width)
		if err != nil {
			return 0, err
		}
		return elements(1+width, n*each)
	}
	switch c := b[0]; {
	case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3:
		return 1, nil
	case c <= 0x8f:
		return elements(1, 2*uint64(c-0x80))
	case c <= 0x9f:
		return elements(1, uint64(c-0x90))
	case c <= 0xbf:
		return take(1 + uint64(c-0xa0))
	case c == 0xc1:
		return 0, errors.New("reserved")
	case c <= 0xc6:
		return sized(1<<(c-0xc4), 0)
	case c <= 0xc9:
		return sized(1<<(c-0xc7), 1)
	case c == 0xca:
		return take(5)
	case c == 0xcb:
		return take(9)
	case c <= 0xcf:
		return take(1 + 1<<(c-0xcc))
	case c <= 0xd3:
		return take(1 + 1<<(c-0xd0))
	case c <= 0xd8:
		return take(2 + 1<<(c-0xd4))
	case c <= 0xdb:
		return sized(1<<(c-0xd9), 0)
	case c <= 0xdd:
		return counted(2<<(c-0xdc), 1)
	default:
		return counted(2<<(c-0xde), 2)
	}
}

func compareWithCheck(t *testing.T, b []byte) {
	t.Helper()
	n, want := check(b, 0)
	if want == nil && n != len(b) {
		want = errors.New("trailing bytes")
	}
	if got := Scan(b); (got == nil) != (want == nil) {
		t.Fatalf("%x: Scan says %v, the reference %v", b, got, want)
	}
}

func TestScanAgreesWithTheObviousWay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		var value bytes.Buffer
		randomValue(r, &value, 5)
		b := value.Bytes()
		if err := Scan(b); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		switch r.IntN(4) { // and now a broken one
		case 0:
			b = b[:r.IntN(len(b))]
		case 1:
			b[r.IntN(len(b))] = byte(r.Uint32())
		case 2:
			b[r.IntN(len(b))] = 0xc0 + byte(r.IntN(32))
		case 3:
			b = append(b, byte(r.Uint32()))
		}
		compareWithCheck(t, b)
	}
}

func TestScanDepth(t *testing.T) {
	for _, link := range []string{"\x91", "\x81\xa0", "\xdc\x00\x01", "\xdf\x00\x00\x00\x01\xc0"} {
		if err := Scan([]byte(strings.Repeat(link, maxDepth) + "\xc0")); err != nil {
			t.Errorf("%x, %d deep: %v", link, maxDepth, err)
		}
		if err := Scan([]byte(strings.Repeat(link, maxDepth+1) + "\xc0")); err == nil {
			t.Errorf("%x, %d deep: accepted", link, maxDepth+1)
		}
	}
	// Empty containers hold nothing and add no depth.
	if err := Scan([]byte(strings.Repeat("\x91", maxDepth) + "\x90")); err != nil {
		t.Errorf("an empty array in the innermost: %v", err)
	}
}

func TestScanRefusesClaims(t *testing.T) {
	for _, b := range []string{
		"\xdd\xff\xff\xff\xff", "\xdf\xff\xff\xff\xff", "\xdb\xff\xff\xff\xff", "\xc6\xff\xff\xff\xff", "\xc9\xff\xff\xff\xff\x00",
		"\xdf\x80\x00\x00\x00", // twice the count is 2³²
		"\x92\xdd\x00\x00\x00\x02\xc0\xc0", "\x82\xc0\xc0\xc0", "\xc1", "", "\xc0\xc0",
	} {
		if Scan([]byte(b)) == nil {
			t.Errorf("%x is accepted", b)
		}
	}
}

// repeated is an array of n times unit.
func repeated(n int, unit ...byte) Body {
	return append(binary.BigEndian.AppendUint32(Body{0xdd}, uint32(n)), bytes.Repeat(unit, n)...)
}

func chain(links int, link string, leaf byte) []byte {
	return append([]byte(strings.Repeat(link, links)), leaf)
}

// decodeMemory returns how many bytes are allocated while b is decoded into an any.
func decodeMemory(b Body) (uint64, error) {
	least, err := ^uint64(0), error(nil)
	for range 3 { // somebody else may have allocated in the meantime
		var before, after runtime.MemStats
		var v any
		runtime.ReadMemStats(&before)
		err = b.Decode(&v)
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(v)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least, err
}

// decodeOverhead is what decoding takes however small the body is: the decoder and its buffer. An error's text comes on top.
const decodeOverhead = 4 << 10

func TestDecodeFactor(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // sync.Pool is emptied by the collector
	worst := 0.0
	for _, c := range []struct {
		name string
		body Body
	}{
		{"chains of maps, ending in an empty map", repeated(2000, chain(62, "\x81\xa0", 0x80)...)},
		{"chains of maps, ending in nil", repeated(2000, chain(63, "\x81\xa0", 0xc0)...)},
		{"one chain of maps", chain(64, "\x81\xa0", 0xc0)},
		{"chains of arrays", repeated(2000, chain(63, "\x91", 0x90)...)},
		{`{"": {}}`, repeated(20000, 0x81, 0xa0, 0x80)},
		{`{"": nil}`, repeated(20000, 0x81, 0xa0, 0xc0)},
		{`{"x": 1}`, repeated(20000, 0x81, 0xa1, 'x', 1)},
		{"empty maps", repeated(20000, 0x80)},
		{"empty arrays", repeated(20000, 0x90)},
		{"empty strings", repeated(20000, 0xa0)},
		{"empty binaries", repeated(20000, 0xc4, 0)},
		{"nil", repeated(20000, 0xc0)},
		{"timestamps", repeated(20000, 0xd6, 0xff, 0, 0, 0, 1)},
		{"maps of 9 equal keys", repeated(2000, append([]byte{0x89}, bytes.Repeat([]byte{0xa0, 0xc0}, 9)...)...)},
		{"maps of 900 equal keys", repeated(50, append([]byte{0xde, 3, 0x84}, bytes.Repeat([]byte{0xa0, 0xc0}, 900)...)...)},
		{"a map of 65535 equal keys", append(Body{0xde, 0xff, 0xff}, bytes.Repeat([]byte{0xa0, 0xc0}, 65535)...)},
		{"a long string", append(Body{0xdb, 0, 0x10, 0, 0}, make([]byte, 1<<20)...)},
	} {
		used, err := decodeMemory(c.body)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		factor := float64(used) / float64(len(c.body))
		worst = max(worst, factor)
		if used > DecodeFactor*uint64(len(c.body))+decodeOverhead {
			t.Errorf("%s: %d bytes took %d bytes of memory, %.1f times as much", c.name, len(c.body), used, factor)
		}
	}
	if worst < 0.98*DecodeFactor {
		t.Errorf("the worst body takes %.1f times its size; DecodeFactor, %d, promises less than could be promised", worst, DecodeFactor)
	}
}

// FuzzScan: Scan accepts what the obvious way accepts; what it accepts decodes without a panic, within the memory that DecodeFactor promises.
func FuzzScan(f *testing.F) {
	for _, g := range readGolden(f) {
		if b := unhex(f, g.Hex); len(b) < 1000 {
			f.Add(b)
		}
	}
	for _, b := range []Body{
		repeated(3, 0x81, 0xa0, 0x80), repeated(2, chain(62, "\x81\xa0", 0x80)...), {0xdd, 0xff, 0xff, 0xff, 0xff}, {0xc7, 5, 0, 0xdf, 0xff, 0xff, 0xff, 0xff},
		append(Body{0xde, 0, 16}, bytes.Repeat([]byte{0xa0, 0xc0}, 16)...),
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		compareWithCheck(t, b)
		if Scan(b) != nil {
			return
		}
		used, err := decodeMemory(b)
		limit := DecodeFactor*uint64(len(b)) + decodeOverhead
		if err != nil {
			limit += decodeOverhead + 8*uint64(len(b)) // its text
		}
		if used > limit && !raceEnabled {
			t.Errorf("%x: %d bytes took %d bytes of memory", b, len(b), used)
		}
		var typed struct {
			M map[string]any
			S map[string]string
			L []map[string]int
			A any
		}
		_ = Body(b).Decode(&typed)
		var m map[string]any
		_ = Body(b).Decode(&m)
	})
}
