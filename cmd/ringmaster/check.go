package main

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/supervisor"
	"github.com/ringmasterd/ringmaster/worker"
)

// check prints what serve would run, if this machine has the programs for it.
func (a *app) check(file *config.File, socket string) error {
	for _, p := range file.Supervisor.Pools {
		if err := findProgram(p); err != nil {
			return file.Locate(err)
		}
	}
	if file.Listen != "" {
		socket += ", and by TCP " + file.Listen + ","
	}
	fmt.Fprintf(a.out, "%s is valid. It would serve %s with\n", file.Path, socket)
	for _, p := range file.Supervisor.Pools {
		what := strings.Join(p.Command, " ")
		if p.Builtin != "" {
			what = "builtin " + p.Builtin
		}
		workers := max(1, p.Workers)
		plural := "s"
		if workers == 1 {
			plural = ""
		}
		fmt.Fprintf(a.out, "  %s: %d worker%s, %s\n", p.Name, workers, plural, what)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Pipelines.Pipelines)) {
		var steps []string
		for _, s := range file.Pipelines.Pipelines[name].Steps {
			steps = append(steps, s.Name)
		}
		fmt.Fprintf(a.out, "  %s: a pipeline of %s\n", name, strings.Join(steps, ", "))
	}
	return nil
}

// checkBuiltins checks that this binary has the builtins that pools name.
func checkBuiltins(file *config.File) error {
	for _, p := range file.Supervisor.Pools {
		if _, ok := worker.Builtin(p.Builtin); p.Builtin != "" && !ok {
			return file.Locate(&supervisor.FieldError{Pool: p.Name, Field: "builtin", Value: p.Builtin, Want: "there is no such builtin; use one of " + strings.Join(worker.BuiltinNames(), ", ")})
		}
	}
	return nil
}

// findProgram checks that a pool's program exists; the error is a [*supervisor.FieldError].
func findProgram(p supervisor.PoolConfig) error {
	if p.Builtin != "" {
		return nil
	}
	program := p.Command[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		program = filepath.Join(p.Dir, program)
	}
	if _, err := exec.LookPath(program); err != nil {
		return &supervisor.FieldError{Pool: p.Name, Field: "command", Value: p.Command[0], Want: "there is no such program here; install it, or correct its path"}
	}
	return nil
}
