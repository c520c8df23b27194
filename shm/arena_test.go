package shm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestArenaBytes(t *testing.T) {
	page := uint64(os.Getpagesize())
	for asked, want := range map[uint64]uint64{
		1: page, page: page, page + 1: 2 * page, 2<<20 - 1: 2 << 20, 2 << 20: 2 << 20, 2<<20 + 1: 4 << 20, 255 << 20: 256 << 20, 1 << 46: 1 << 46,
		0: 0, 1<<46 + 1: 0, 1 << 63: 0, ^uint64(0): 0,
	} {
		if got, ok := ArenaBytes(asked); got != want || ok != (want > 0) {
			t.Errorf("%d bytes become %d, %v; want %d", asked, got, ok, want)
		}
	}
}

func openArena(t *testing.T, fd int, size uint64) *Arena {
	t.Helper()
	a, err := OpenArena(fd, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestArenaIsShared(t *testing.T) {
	file, err := CreateArena(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	a, b := openArena(t, int(file.Fd()), 2<<20), openArena(t, int(file.Fd()), 2<<20)
	if len(a.Bytes()) != 2<<20 || !bytes.Equal(a.Bytes(), make([]byte, 2<<20)) {
		t.Error("it is not that many zeros")
	}
	copy(a.Bytes()[1<<20:], "written by one")
	if got := string(b.Bytes()[1<<20:][:14]); got != "written by one" {
		t.Errorf("the other reads %q", got)
	}
	for what, err := range map[string]error{"shrink": unix.Ftruncate(int(file.Fd()), 4096), "grow": unix.Ftruncate(int(file.Fd()), 4<<20)} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("it lets itself %s: %v", what, err)
		}
	}
	if err := EmptyArena(file, 2<<20); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), make([]byte, 2<<20)) {
		t.Error("it has been emptied, and something is left")
	}
}

// Whoever has closed an arena knows when the last of the others has let it go, by whatever way they have it.
func TestRemainsOfAnArena(t *testing.T) {
	file, err := CreateArena(8192)
	if err != nil {
		t.Fatal(err)
	}
	passed, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // as SCM_RIGHTS does
	if err != nil {
		t.Fatal(err)
	}
	remains, err := LeaveArena(file)
	if err != nil {
		t.Fatal(err)
	}
	left := func(what string) {
		t.Helper()
		if remains.Gone() {
			t.Fatalf("it is taken to be gone while there is %s", what)
		}
	}
	left("a descriptor")
	arena, err := OpenArena(passed, 8192)
	if err != nil {
		t.Fatal(err)
	}
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", passed), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(passed); err != nil {
		t.Fatal(err)
	}
	left("a mapping")
	if err := arena.Close(); err != nil {
		t.Fatal(err)
	}
	left("a descriptor for reading")
	if err := unix.Close(again); err != nil {
		t.Fatal(err)
	}
	if !remains.Gone() {
		t.Error("it is not gone")
	}
}

func TestOpenArenaRefuses(t *testing.T) {
	file, err := CreateArena(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := unix.MemfdCreate("plain", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(plain)
	if err := unix.Ftruncate(plain, 8192); err != nil {
		t.Fatal(err)
	}
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer other.Close()
	for _, c := range []struct {
		fd   int
		size uint64
		says string
	}{
		{int(file.Fd()), 4096, "it was said to be 4096"},
		{int(file.Fd()), 8193, "it was said to be 8193"},
		{int(file.Fd()), 0, "want 1 to"},
		{int(file.Fd()), ^uint64(0), "want 1 to"},
		{plain, 8192, "seals"},
		{int(pipe.Fd()), 8192, "seals"},
		{-1, 8192, "bad file descriptor"},
	} {
		if a, err := OpenArena(c.fd, c.size); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("fd %d, %d bytes: %v, %v; want %q", c.fd, c.size, a, err, c.says)
		}
	}
}
