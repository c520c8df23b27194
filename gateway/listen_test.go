package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestListenOwnsItsPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "rm.sock")
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "already served; stop that server, or use another --socket") {
		t.Errorf("a second server: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestListenRemovesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

func TestListenErrors(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 200))
	if _, err := Listen(long, ""); err == nil {
		t.Error("a path of 200 bytes was bound")
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "s"), "no-such-group-here"); err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(file, "s"), ""); err == nil {
		t.Error("a file served as the parent directory")
	}
}

func TestListenSetsGroup(t *testing.T) {
	gid := os.Getegid()
	if os.Geteuid() == 0 {
		gid = 12345
	}
	path := filepath.Join(t.TempDir(), "made", "rm.sock")
	ln, err := Listen(path, fmt.Sprint(gid))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, p := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Gid; got != uint32(gid) {
			t.Errorf("%s has group %d, want %d", p, got, gid)
		}
	}
	if ln.door.gid != uint32(gid) {
		t.Errorf("the door lets in group %d", ln.door.gid)
	}
}

// Whatever the umask, the socket ends up 0660.
func TestListenUnderAnyUmask(t *testing.T) {
	for _, mask := range []int{0, 0o077, 0o777} {
		dir := t.TempDir()
		old := syscall.Umask(mask)
		ln, err := Listen(filepath.Join(dir, "rm.sock"), "")
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(ln.Path())
		if err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("umask %03o: mode %v, %v", mask, info.Mode(), err)
		}
		_ = ln.Close()
	}
}

// Servers that start at once, over a stale socket, on one path: one gets it, and it is the one that answers there.
func TestListenRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	var wg sync.WaitGroup
	won := make(chan *Listener, 8)
	for range cap(won) {
		wg.Go(func() {
			ln, err := Listen(path, "")
			if err == nil {
				won <- ln
			} else if !strings.Contains(err.Error(), "already served") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d servers got the socket", len(won))
	}
	ln := <-won
	startOn(t, ln, newFake(), Config{})
	dial(t, path).echo(t)
}

func TestCloseLeavesSuccessorAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	old, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // somebody tidies up
		t.Fatal(err)
	}
	successor, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	startOn(t, successor, newFake(), Config{})
	dial(t, path).echo(t)
}

func TestAdmit(t *testing.T) {
	d := door{uid: 1000, gid: 500}
	for _, tt := range []struct {
		name string
		peer chain.Peer
		ok   bool
	}{
		{"the same user", chain.Peer{UID: 1000, GID: 1}, true},
		{"root", chain.Peer{UID: 0, GID: 0}, true},
		{"primary group", chain.Peer{UID: 7, GID: 500}, true},
		{"supplementary group", chain.Peer{UID: 7, GID: 7, Groups: []uint32{1, 500}}, true},
		{"a stranger", chain.Peer{UID: 7, GID: 7, Groups: []uint32{1, 2}}, false},
	} {
		if err := d.admit(tt.peer); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestPeerIsInContext(t *testing.T) {
	peers := make(chan chain.Peer, 1)
	s := start(t, backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		p, _ := chain.PeerFrom(ctx)
		peers <- p
		return &echoReplies{body: req.Body}, nil
	}), Config{})
	dial(t, s.path).echo(t)
	p := await(t, peers, "the request")
	if p.PID != int32(os.Getpid()) || p.UID != uint32(os.Geteuid()) || p.GID != uint32(os.Getegid()) {
		t.Errorf("peer %+v", p)
	}
	groups, err := os.Getgroups()
	if err != nil || len(groups) != len(p.Groups) {
		t.Errorf("groups %v, want %v (%v)", p.Groups, groups, err)
	}
}

// A user who is neither owner, root nor in the group is turned away even if somebody has opened the socket's mode.
func TestStrangerIsTurnedAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	dir, err := os.MkdirTemp("/tmp", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen(filepath.Join(dir, "rm.sock"), "12345")
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, ln, newFake(), Config{Logger: slog.New(slog.DiscardHandler)})
	if err := os.Chmod(ln.Path(), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		groups []uint32
		want   string
	}{
		{nil, "PERMISSION_DENIED/peer"},
		{[]uint32{12345}, "OK"},
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"GATEWAY_TEST_STRANGER=" + ln.Path(), "GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: tt.groups}}
		out, err := cmd.Output()
		if errors.Is(err, os.ErrPermission) {
			t.Skip(err)
		}
		if string(out) != tt.want {
			t.Errorf("groups %v: got %q, %v, want %q", tt.groups, out, err, tt.want)
		}
	}
}

// stranger is the child of TestStrangerIsTurnedAway: it says hello and prints what became of it.
func stranger(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Print(err)
		return 1
	}
	_, err = ipc.ClientHello(ipc.NewSocket(conn, 1<<20, patience), "stranger")
	if e := ipc.AsError(err); e != nil {
		fmt.Printf("%s/%s", e.Code, e.Reason)
		return 1
	}
	fmt.Print("OK")
	return 0
}
