package usage

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// Also those that a thread has started which is gone, and while other processes come and go.
func TestTreeFindsEveryChild(t *testing.T) {
	want := []int{os.Getpid()}
	for range 5 {
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() { // on a thread that ends
			runtime.LockOSThread()
			started <- cmd.Start()
		}()
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		want = append(want, cmd.Process.Pid)
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait()
		})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	for range 50 {
		got := Tree(os.Getpid())
		for _, pid := range want {
			if !slices.Contains(got, pid) {
				t.Fatalf("%d is not in %v", pid, got)
			}
		}
		if got[0] != os.Getpid() {
			t.Fatalf("%v does not begin with %d", got, os.Getpid())
		}
	}
}

func TestUsageCountsWhatAProcessDid(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	before, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("done\n"))); err != nil {
		t.Fatal(err)
	}
	after, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if u := after.Since(before); u.CPU < time.Millisecond || u.Machine < 0 {
		t.Errorf("%+v", u)
	}
	// It waits for another line now, and so it sleeps.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(30 * time.Second); ; <-tick.C {
		if u, err := Of(cmd.Process.Pid); err != nil || u.Sleeps > 0 {
			break
		}
		if time.Now().After(give) {
			t.Fatal("a process that waits has never slept")
		}
	}
	if _, err := Of(1 << 24); err == nil {
		t.Error("a process that is not there has a clock")
	}
	if Parent(cmd.Process.Pid) != os.Getpid() || Parent(1<<24) != 0 {
		t.Error("whose child it is")
	}
}
