// Package cpulist reads lists of CPUs as the kernel and taskset write them: 0-3,8.
package cpulist

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Max is the number of CPUs that a list may speak of: as many as fit into the kernel's usual cpu_set_t.
const Max = 1024

// Parse returns the numbers in a list such as 0-3,8, sorted, each once.
func Parse(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		to, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if err1 != nil || err2 != nil || from > to || to >= Max {
			return nil, fmt.Errorf("%q is not a list of CPUs such as 0-3,8", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

// Format writes numbers, which are sorted, as a list.
func Format(cpus []int) string {
	var parts []string
	for i := 0; i < len(cpus); {
		last := i
		for last+1 < len(cpus) && cpus[last+1] == cpus[last]+1 {
			last++
		}
		if last == i {
			parts = append(parts, strconv.Itoa(cpus[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", cpus[i], cpus[last]))
		}
		i = last + 1
	}
	return strings.Join(parts, ",")
}
