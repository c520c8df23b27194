package supervisor

import (
	"slices"
	"testing"
)

func TestVisibleDevices(t *testing.T) {
	for _, c := range []struct {
		name    string
		devices Devices
		all     []string
		want    []string // of slots 0, 1, 2; nil: not set
	}{
		{"auto without a GPU", Devices{}, nil, nil},
		{"auto", Devices{}, []string{"0", "1"}, []string{"0", "1", "0"}},
		{"auto with names", Devices{}, []string{"GPU-8a3f", "MIG-77"}, []string{"GPU-8a3f", "MIG-77", "GPU-8a3f"}},
		{"none", Devices{None: true}, []string{"0", "1"}, []string{"", "", ""}},
		{"none before list", Devices{None: true, List: []int{1}}, []string{"0", "1"}, []string{"", "", ""}},
		{"list", Devices{List: []int{3, 1}}, []string{"0", "1"}, []string{"3", "1", "3"}},
		{"list without a GPU", Devices{List: []int{0}}, nil, []string{"0", "0", "0"}},
		{"empty list", Devices{List: []int{}}, []string{"0"}, []string{"", "", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for slot := range 3 {
				got, set := visibleDevices(c.devices, slot, c.all)
				switch {
				case set != (c.want != nil):
					t.Errorf("slot %d: set is %v", slot, set)
				case set && got != c.want[slot]:
					t.Errorf("slot %d: %q, want %q", slot, got, c.want[slot])
				}
			}
		})
	}
}

func TestMachineDevicesAreTheParents(t *testing.T) {
	for value, want := range map[string][]string{
		"":               nil,
		"2":              {"2"},
		"1, 3":           {"1", "3"},
		"GPU-8a3f,MIG-1": {"GPU-8a3f", "MIG-1"},
	} {
		t.Setenv("CUDA_VISIBLE_DEVICES", value)
		if got := machineDevices(); !slices.Equal(got, want) {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q: %q, want %q", value, got, want)
		}
	}
}

// What the functions above say is what a worker sees, and what the status shows.
func TestWorkersSeeTheirDevices(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "4,5")
	auto, list, none := builtin(2, 1), builtin(2, 1), builtin(1, 1)
	list.Name, list.Devices = "list", Devices{List: []int{7}}
	none.Name, none.Devices = "none", Devices{None: true}
	h := run(t, auto, list, none)
	for pool, want := range map[string][]string{"test": {"4", "5"}, "list": {"7", "7"}, "none": {""}} {
		for i, w := range h.allReady(pool).Workers {
			var got struct {
				Env map[string]string `msgpack:"env"`
			}
			r, err := h.call(testContext(t), request(t, pool, "env", map[string][]string{"names": {"CUDA_VISIBLE_DEVICES"}})) // ties go round, from slot 0
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Body.Decode(&got); err != nil {
				t.Fatal(err)
			}
			if v, ok := got.Env["CUDA_VISIBLE_DEVICES"]; !ok || v != want[i] || w.Devices != want[i] {
				t.Errorf("pool %s, worker %d: CUDA_VISIBLE_DEVICES is %q (set: %v), status says %q; want %q", pool, i, v, ok, w.Devices, want[i])
			}
		}
	}
}
