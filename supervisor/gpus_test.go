package supervisor

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestParseGPUs(t *testing.T) {
	out := "0, NVIDIA H100 80GB HBM3, 37, 40960, 81559, 51\n1, NVIDIA A2, [N/A], [N/A], 15356, 40\nNo devices were found\n\nx, y, 1, 2, 3, 4\n"
	want := []GPU{
		{Index: 0, Name: "NVIDIA H100 80GB HBM3", BusyPercent: 37, MemoryUsed: 40960 << 20, MemoryTotal: 81559 << 20, TemperatureC: 51},
		{Index: 1, Name: "NVIDIA A2", MemoryTotal: 15356 << 20, TemperatureC: 40},
	}
	if got := parseGPUs([]byte(out)); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestGPUsAreMeasuredInTheBackground(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho '0, Some GPU, 5, 100, 1000, 30'\n"
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	done := make(chan struct{})
	m := gpuMeter{launch: func(f func()) bool {
		go func() {
			f()
			close(done)
		}()
		return true
	}}
	if got := m.look(); got != nil {
		t.Errorf("before it was measured: %+v", got)
	}
	<-done
	if got := m.look(); len(got) != 1 || got[0].Name != "Some GPU" || got[0].MemoryUsed != 100<<20 {
		t.Errorf("%+v", got)
	}
}
