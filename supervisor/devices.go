package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// visibleDevices returns the CUDA_VISIBLE_DEVICES of a slot, and whether to set it at all. all lists the machine's devices.
func visibleDevices(d Devices, slot int, all []string) (value string, set bool) {
	switch {
	case d.None:
		return "", true
	case d.List != nil:
		if len(d.List) == 0 {
			return "", true
		}
		return strconv.Itoa(d.List[slot%len(d.List)]), true
	case len(all) == 0:
		return "", false
	}
	return all[slot%len(all)], true
}

// machineDevices lists the GPUs that the supervisor itself may use: those in its own CUDA_VISIBLE_DEVICES, else all that the NVIDIA driver shows.
func machineDevices() []string {
	if v, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES"); ok {
		var ids []string
		for id := range strings.SplitSeq(v, ",") {
			if id = strings.TrimSpace(id); id != "" {
				ids = append(ids, id)
			}
		}
		return ids
	}
	nodes, _ := filepath.Glob("/dev/nvidia[0-9]*") // the pattern is well-formed
	ids := make([]string, len(nodes))
	for i := range nodes {
		ids[i] = strconv.Itoa(i)
	}
	return ids
}
