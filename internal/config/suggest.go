package config

import "strings"

// elsewhere are names that other tools use for keys of ours.
var elsewhere = map[string]string{
	"cmd": "command", "args": "command", "exec": "command",
	"replicas": "workers", "instances": "workers", "count": "workers", "num_workers": "workers",
	"gpus": "devices", "gpu": "devices", "environment": "env", "cwd": "dir", "workdir": "dir", "working_dir": "dir",
	"deadline": "timeout", "load_timeout": "start_timeout", "startup_timeout": "start_timeout",
	"max_queue_size": "queue", "models": "pools", "logging": "log", "memory": "rss", "ttl": "lifetime", "max_requests": "requests",
}

// suggest says what an unknown key may have been meant to be.
func suggest(name string, known []string) string {
	best, distance := elsewhere[name], 3
	for _, k := range known {
		if k == best {
			return "did you mean " + k + "?"
		}
	}
	best = ""
	for _, k := range known {
		if d := edits(name, k); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "use one of " + strings.Join(known, ", ")
}

// edits counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b.
func edits(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	older := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		older, before, row = before, row, older
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(before[j]+1, row[j-1]+1, before[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
