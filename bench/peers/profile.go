package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// profileVariable names a directory; a process that finds it set writes there what it spent its time on and what it allocated.
const profileVariable = "PEERS_PROFILE"

// startProfile returns what ends the profile.
func startProfile(role string) (stop func()) {
	dir := os.Getenv(profileVariable)
	if dir == "" || role == "guard" {
		return func() {}
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%d", role, os.Getpid()))
	f, err := os.Create(name + ".cpu")
	if err != nil {
		return func() {}
	}
	_ = pprof.StartCPUProfile(f)
	return func() {
		pprof.StopCPUProfile()
		f.Close()
		if f, err := os.Create(name + ".allocs"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(f, 0)
			f.Close()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b, _ := json.Marshal(map[string]any{"mallocs": m.Mallocs, "bytes": m.TotalAlloc, "gcs": m.NumGC, "gc_cpu": m.GCCPUFraction})
		_ = os.WriteFile(name+".memstats", append(b, '\n'), 0o644)
	}
}
