package session

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// redisServer is a real one, in a directory of its own, behind a Unix socket. It keeps what it has acknowledged when it is killed.
type redisServer struct {
	t      testing.TB
	binary string
	dir    string
	url    string

	mu  sync.Mutex
	cmd *exec.Cmd // guarded by mu; nil: it does not run
}

// startRedis starts one. Where there is none the test is skipped, unless $RINGMASTER_TEST_REDIS says that there is.
func startRedis(t testing.TB) *redisServer {
	t.Helper()
	name, required := os.LookupEnv("RINGMASTER_TEST_REDIS")
	if !required {
		name = "redis-server"
	}
	binary, err := exec.LookPath(name)
	switch {
	case err != nil && required:
		t.Fatalf("$RINGMASTER_TEST_REDIS: %v", err)
	case err != nil:
		t.Skip("there is no redis-server on this machine: apt-get install redis-server")
	}
	dir, err := os.MkdirTemp("", "rmredis") // not t.TempDir: a socket's path has 107 bytes
	must(t, err)
	r := &redisServer{t: t, binary: binary, dir: dir, url: "unix://" + filepath.Join(dir, "r.sock")}
	t.Cleanup(func() {
		r.kill()
		_ = os.RemoveAll(dir)
	})
	r.start()
	return r
}

// start starts it and waits until it answers.
func (r *redisServer) start() {
	r.t.Helper()
	cmd := exec.Command(r.binary, "--port", "0", "--unixsocket", filepath.Join(r.dir, "r.sock"), "--dir", r.dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(r.t, cmd.Start())
	r.mu.Lock()
	r.cmd = cmd
	r.mu.Unlock()
	probe, err := openRedis(r.url, Limits{})
	must(r.t, err)
	defer probe.Close()
	eventually(r.t, "redis-server to answer", func() bool { return probe.client.Ping(testContext(r.t)).Err() == nil })
}

func (r *redisServer) signal(sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(sig)
	}
}

// kill ends it with SIGKILL.
func (r *redisServer) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}
