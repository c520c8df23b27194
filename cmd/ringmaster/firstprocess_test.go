package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// As a container's first process, serve leaves no zombies: neither of orphans that end by themselves nor of those that are killed with their worker. It takes signals, and its exit status is the server's.
func TestFirstProcess(t *testing.T) {
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	// A worker that leaves two orphans in a session of their own: one ends at once, the other is killed with its worker.
	config := fmt.Sprintf("pools:\n  a:\n    command: [sh, -c, '(setsid sh -c \"echo >%[1]s\" &); (setsid sleep 1000 &); exec %[2]s worker --builtin echo']\n", ran, binary)
	if err := os.WriteFile(filepath.Join(dir, "ringmaster.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	container := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", binary, "serve", "--socket", socket)
	container.Dir = dir
	var out bytes.Buffer
	container.Stdout, container.Stderr = &out, &out
	if err := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true").Run(); err != nil {
		t.Skipf("this test needs a process namespace, which only root may make on most machines: %v", err)
	}
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	defer container.Process.Kill()
	call := func(action string) int {
		return ringmaster(t, dir, "", "--socket", socket, "call", "a", action).code
	}
	eventually(t, "an answer", func() bool { return call("echo") == 0 })
	first := childrenOf(container.Process.Pid)
	if len(first) != 1 || len(childrenOf(first[0])) < 1 {
		t.Fatalf("the first process %v has no server: %s", first, &out)
	}
	eventually(t, "an orphan to run", func() bool { _, err := os.Stat(ran); return err == nil })
	for range 3 {
		_ = call("crash")
		eventually(t, "the next worker", func() bool { return call("echo") == 0 })
	}
	eventually(t, "no zombie", func() bool {
		for _, pid := range childrenOf(first[0]) {
			if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(stat), ") Z ") {
				return false
			}
		}
		return true
	})
	if err := syscall.Kill(first[0], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, container.Wait()); code != 0 {
		t.Errorf("exit status %d: %s", code, &out)
	}
	if !strings.Contains(out.String(), "stopped") {
		t.Errorf("it did not stop in good order: %s", &out)
	}
}

// childrenOf lists a process's children.
func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, text := range strings.Fields(string(b)) {
			var child int
			if _, err := fmt.Sscan(text, &child); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
