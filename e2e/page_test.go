package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const pages = `
pools:
  py: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/traced.py"]}
  echo: {builtin: echo, workers: 2}
`

// The status page in a real Chromium: light and dark, wide and narrow, with and without scripts, and with names that would like to be markup.
func TestStatusPageInABrowser(t *testing.T) {
	chromium := findChromium(t)
	s := serve(t, pages, "py", "echo")
	c := s.dial()
	if _, err := c.Call(testContext(t), "py", "<img src=x onerror=alert(1)>", nil); err == nil {
		t.Fatal("there is such an action")
	}
	app := exec.Command(python, filepath.Join(root, "e2e", "testdata", "page_app.py"), chromium, "http://"+forward(t, s.socket)+"/")
	app.Env = s.command().Env
	kill := time.AfterFunc(2*time.Minute, func() { _ = app.Process.Kill() })
	defer kill.Stop()
	if out, err := app.CombinedOutput(); err != nil || !strings.Contains(string(out), "all good") {
		t.Errorf("%v (playwright comes with `make py`)\n%s", err, out)
	}
}

// findChromium finds a Chromium, or skips the test; not where RINGMASTER_TEST_CHROMIUM says that there is to be one.
func findChromium(t *testing.T) string {
	t.Helper()
	wanted := os.Getenv("RINGMASTER_TEST_CHROMIUM")
	for _, name := range []string{wanted, "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			if exec.Command(python, "-c", "import playwright").Run() != nil && wanted == "" {
				t.Skip("there is no playwright; it comes with `make py`")
			}
			return path
		}
	}
	if wanted != "" {
		t.Fatalf("there is no %s", wanted)
	}
	t.Skip("there is no Chromium; Debian has it in the package chromium-headless-shell")
	return ""
}

// forward lets what cannot speak to a Unix socket in by a port of the loopback interface, and returns its address.
func forward(t *testing.T, socket string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	open.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				to.Close()
				from.Close()
			}
			open.Go(func() { pass(out, in) })
			open.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return fmt.Sprint(ln.Addr())
}
