package worker

import (
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestReadSpawn(t *testing.T) {
	env := map[string]string{ipc.CookieVariable: ipc.Cookie, ipc.VersionsVariable: "1"}
	getenv := func(name string) string { return env[name] }
	if s, err := readSpawn(getenv); err != nil || s != (spawn{"1", 1, ipc.DefaultMaxMessage}) {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	env[ipc.ConcurrencyVariable], env[ipc.MaxMessageVariable] = "8", "1000000"
	if s, err := readSpawn(getenv); err != nil || s != (spawn{"1", 8, 1000000}) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTheHighestCommonVersionIsChosen(t *testing.T) {
	for offered, want := range map[string]int{"1": 1, "1,2": 1, "3,2,1": 1, "3, 1": 1, "0,1": 1, "": 0, "2": 0, "x,1": 1, "-1": 0, "1.0": 0, "99999999999999999999": 0} {
		if got, err := (spawn{versions: offered}).version(); got != want || (err == nil) != (want > 0) {
			t.Errorf("offered %q: chose %d, %v; want %d", offered, got, err, want)
		}
	}
}
