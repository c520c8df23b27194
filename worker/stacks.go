package worker

import (
	"bytes"
	"runtime"
	"slices"
)

// maxStacks is the most, in bytes, that is written of the stacks of all goroutines.
const maxStacks = 1 << 20

// stacks returns the stack of every goroutine. Those that run actions come last: of a log, people see the last lines.
func stacks() []byte {
	all := make([]byte, maxStacks)
	all = all[:runtime.Stack(all, true)]
	list := bytes.Split(bytes.TrimSpace(all), []byte("\n\n"))
	slices.SortStableFunc(list, func(a, b []byte) int { return runsAction(a) - runsAction(b) })
	return append(bytes.Join(list, []byte("\n\n")), '\n')
}

// runsAction is 1 for the stack of a goroutine that runs an action, else 0.
func runsAction(stack []byte) int {
	if bytes.Contains(stack, []byte("/worker.(*handler).ServeRequest(")) {
		return 1
	}
	return 0
}
