package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
)

// A worker written from docs/protocol.md alone serves requests: the page is complete.
func TestWorkerFromTheProtocolPage(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "cworker")
	cc := exec.Command("cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", worker, filepath.Join(root, "examples", "cworker", "worker.c"), "-lpthread")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := serve(t, fmt.Sprintf("pools:\n  c: {command: [%s], workers: 2}\n", worker), "c")
	c := s.dial()
	ctx := testContext(t)
	body := map[string]string{"text": strings.Repeat("x", 100_000)}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 200 { // 160 MB through rings of 4 MiB: they go round, with PADs
				r, err := c.Call(ctx, "c", "echo", body)
				if err != nil {
					t.Error(err)
					return
				}
				var got map[string]string
				if err := r.Decode(&got); err != nil || got["text"] != body["text"] {
					t.Errorf("%v, %d bytes", err, len(got["text"]))
					return
				}
			}
		})
	}
	calls.Wait()
	var got []int
	for r, err := range c.Stream(ctx, "c", "count", nil) {
		if err != nil {
			t.Fatal(err)
		}
		if !r.Last {
			var i int
			if err := r.Decode(&i); err != nil {
				t.Fatal(err)
			}
			got = append(got, i)
		}
	}
	if fmt.Sprint(got) != "[0 1 2 3 4]" {
		t.Errorf("count streamed %v", got)
	}
	var refused *client.Error
	_, err := c.Call(ctx, "c", "echo", strings.Repeat("x", 2<<20)) // a request of several frames
	if !errors.As(err, &refused) || refused.Reason != "too_large" {
		t.Errorf("a body of 2 MiB: %v", err)
	}
	_, errs, code := s.output("call", "c", "nope")
	if code != 1 || !strings.Contains(errs, "NOT_FOUND/unknown_action") {
		t.Errorf("an unknown action: exit %d, %s", code, errs)
	}
	if err := unix.Kill(s.workers("c")[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := s.output("call", "c", "echo", "--data", "1"); code != 0 || out != "1\n" {
		t.Errorf("after a kill: exit %d, %q, %s", code, out, errs)
	}
}
