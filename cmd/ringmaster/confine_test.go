package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A pool's limits hold for a worker that this binary starts by way of `ringmaster confine`.
func TestConfinedPool(t *testing.T) {
	t.Setenv("MODEL_DIR", "/models")
	t.Setenv("SECRET", "s")
	s := serve(t, `
pools:
  echo: {builtin: echo, workers: 2, rlimits: {nofile: 333, memlock: 64KiB}, env_pass: [MODEL_*]}
  bad: {command: [sleep, 1], rlimits: {nofile: 100000000000}}
`)
	st := s.status()
	for _, w := range st.Pools[1].Workers {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", w.PID))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`Max open files +333 +333 `, `Max locked memory +65536 +65536 `, `Max core file size +0 +0 `} {
			if !regexp.MustCompile(want).Match(b) {
				t.Errorf("no %q in\n%s", want, b)
			}
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID))
		if got := strings.ReplaceAll(string(cmdline), "\x00", " "); got != binary+" worker --builtin echo " {
			t.Errorf("the worker is %s", got)
		}
	}
	if r := s.run("call", "echo", "env", "-d", `{"names": ["MODEL_DIR", "SECRET"]}`); r.code != 0 {
		t.Errorf("%+v", r)
	} else {
		contains(t, "the environment", r.out, `"env":{"MODEL_DIR":"/models"}`)
	}
	exit := st.Pools[0].Workers[0].LastExit
	if exit == nil || exit.Cause != "spawn" {
		t.Fatalf("last exit %+v", exit)
	}
	contains(t, "the bad pool's end", exit.Detail, "start sleep: set rlimits.nofile to 100000000000: operation not permitted; the supervisor's own limit is")
}

func TestConfinementIsChecked(t *testing.T) {
	for yaml, want := range map[string]string{
		"pools:\n  a: {builtin: echo, user: no-such-user}\n": "ringmaster: ringmaster.yaml:2:28: pools.a.user: no-such-user: there is no such user on this machine",
		"pools:\n  a: {builtin: echo, cpus: 0-1023}\n":       "ringmaster: ringmaster.yaml:2:28: pools.a.cpus: ",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/ringmaster.yaml", []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		r := ringmaster(t, dir, "", "serve", "--check", "--socket", dir+"/s")
		if r.code != 2 {
			t.Errorf("%+v", r)
		}
		contains(t, "stderr", r.errOut, want)
	}
	r := ringmaster(t, t.TempDir(), "", "confine")
	if r.code != 1 {
		t.Errorf("%+v", r)
	}
	contains(t, "stderr", r.errOut, "ringmaster: confine: started by hand?")
}
