package worker

import "slices"

// builtins are the actions that every ringmaster binary can serve, for trying it out, for tests and for benchmarks. Each has a file of its own.
var builtins = Actions{
	"checksum": {Unary: checksum, Idempotent: true},
	"count":    {Stream: count},
	"crash":    {Unary: crash},
	"echo":     {Unary: echo, Idempotent: true},
	"env":      {Unary: env, Idempotent: true},
	"hang":     {Unary: hang},
	"leak":     {Unary: leak},
	"sleep":    {Unary: sleep, Idempotent: true},
	"sum":      {Unary: sum, Idempotent: true},
}

// chaos names the set for which there is no builtin action of that name.
const chaos = "chaos"

// Builtin returns the builtin action set of this name. Every builtin action's name is one, and all stand for the same set, so that a pool `{builtin: echo}` serves them all. The set chaos,
// for `ringmaster bench --chaos`, has these and more.
func Builtin(name string) (Actions, bool) {
	if name == chaos {
		return chaosActions(), true
	}
	if _, ok := builtins[name]; !ok {
		return nil, false
	}
	return builtins, true
}

// BuiltinNames returns the names that [Builtin] takes, sorted.
func BuiltinNames() []string {
	names := append(builtins.names(), chaos)
	slices.Sort(names)
	return names
}
