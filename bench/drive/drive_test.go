package drive

import (
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/supervisor"
)

func TestChoose(t *testing.T) {
	echo := supervisor.PoolStatus{Name: "e", Actions: []string{"count", "echo"}}
	chat := supervisor.PoolStatus{Name: "c", Actions: []string{"chat"}}
	many := supervisor.PoolStatus{Name: "m", Actions: []string{"x", "y"}}
	young := supervisor.PoolStatus{Name: "y"}
	for _, tt := range []struct {
		pools        []supervisor.PoolStatus
		pool, action string
		want         string // pool.action, or part of the error
	}{
		{[]supervisor.PoolStatus{echo}, "", "", "e.echo"},
		{[]supervisor.PoolStatus{chat}, "", "", "c.chat"},
		{[]supervisor.PoolStatus{young}, "", "", "y.echo"},
		{[]supervisor.PoolStatus{echo, chat}, "c", "", "c.chat"},
		{[]supervisor.PoolStatus{echo, chat}, "c", "x", "c.x"},
		{[]supervisor.PoolStatus{echo, chat}, "none", "", "none.echo"}, // the server says what is wrong
		{[]supervisor.PoolStatus{echo, chat}, "", "", "2 pools; name one of e, c"},
		{[]supervisor.PoolStatus{many}, "", "", "pool m has no action echo; name one of x, y"},
	} {
		pool, action, err := choose(tt.pools, tt.pool, tt.action)
		got := pool + "." + action
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %s, want %s", tt, got, tt.want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, n := range map[string]int{"0": 0, "64": 64, "64B": 64, "64KiB": 64 << 10, "6MiB": 6 << 20, "1GiB": 1 << 30} {
		if got, err := ParseSize(text); got != n || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "B", "64k", "-1", "1.5MiB", "64 KiB", "3GiB", "99999999999999999999"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, n)
		}
	}
	for n, text := range map[int]string{0: "0B", 64: "64B", 1000: "1000B", 6 << 20: "6MiB", 1536: "1536B", 3 << 10: "3KiB"} {
		if got := Size(n); got != text {
			t.Errorf("Size(%d) = %s", n, got)
		}
	}
}

func TestNumbersHaveThreeDigitsThatCount(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00 µs", 1.234: "1.23 µs", 12.34: "12.3 µs", 123.4: "123 µs", 1234: "1.23 ms", 999.6: "1.00 ms", 1.5e6: "1.50 s"} {
		if got := Micros(v); got != want {
			t.Errorf("Micros(%v) = %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{7: "7", 999: "999", 1000: "1,000", 1234567.8: "1,234,568"} {
		if got := thousands(v); got != want {
			t.Errorf("thousands(%v) = %s, want %s", v, got, want)
		}
	}
}
