package shm

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreateAndOpen(t *testing.T) {
	checkLeaks(t)
	s, err := Create(Geometry{})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, s)
	g := s.Geometry()
	if g.S2W != 4<<20 || g.W2S != 4<<20 || g.MaxFrame != 1<<20-16 || g.Incarnation == 0 {
		t.Errorf("defaults are %+v", g)
	}
	fd, err := unix.Dup(int(s.File().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, w)
	if err := unix.Close(fd); err != nil { // Open left it open, and the mapping does not need it
		t.Error(err)
	}
	if w.Geometry() != g {
		t.Errorf("opened as %+v, created as %+v", w.Geometry(), g)
	}
	if w.File() != nil {
		t.Error("an opened segment has a File")
	}
	if s.SupervisorState() != StateRun {
		t.Errorf("a new segment's state is %d", s.SupervisorState())
	}
	s.SetSupervisorState(StateDrain)
	if got := w.SupervisorState(); got != StateDrain {
		t.Errorf("the worker sees state %d", got)
	}
	status := WorkerStatus{State: WorkerBusy, PID: 1, Beat: 2, Request: 3, Since: 4}
	w.SetWorkerStatus(status)
	if got := s.WorkerStatus(); got != status {
		t.Errorf("the supervisor sees %+v, want %+v", got, status)
	}
	if other, err := NewHeap(Geometry{S2W: 4096, W2S: 4096}); err != nil || other.Geometry().Incarnation == g.Incarnation {
		t.Errorf("second segment: %v, incarnation %#x again", err, g.Incarnation)
	}
}

// TestMemfdCannotShrink: a peer that could shrink the file could kill us with SIGBUS.
func TestMemfdCannotShrink(t *testing.T) {
	checkLeaks(t)
	s, err := Create(geometries[0])
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, s)
	fd := int(s.File().Fd())
	for _, size := range []int64{0, int64(s.Geometry().Bytes()) - 1, int64(s.Geometry().Bytes()) + 1} {
		if err := unix.Ftruncate(fd, size); err != unix.EPERM {
			t.Errorf("ftruncate to %d: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != unix.EPERM {
		t.Errorf("another seal: %v, want EPERM", err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v, want close-on-exec", flags, err)
	}
	// All of it is there: none of it can be missing later.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Blocks*512 < st.Size {
		t.Errorf("%d of %d bytes are backed by memory, %v", st.Blocks*512, st.Size, err)
	}
}

func TestCreateWithoutMemory(t *testing.T) {
	checkLeaks(t)
	defer func() { fallocate = unix.Fallocate }()
	calls := 0
	fallocate = func(fd int, mode uint32, off, n int64) error {
		switch calls++; calls {
		case 1:
			return unix.EINTR
		case 2:
			return unix.Fallocate(fd, mode, off, n)
		}
		return unix.ENOSPC
	}
	if _, err := Create(Geometry{S2W: 32 << 20, W2S: 4096}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
}

func TestGeometryIsValidated(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		g    Geometry
		says string
	}{
		{Geometry{S2W: 2 << 30}, "S2W capacity is 2147483648"},
		{Geometry{S2W: 1 << 63}, "S2W capacity"},
		{Geometry{S2W: 2048}, "S2W capacity is 2048"},
		{Geometry{W2S: 5000}, "W2S capacity is 5000, want a power of two"},
		{Geometry{MaxFrame: 63}, "max frame is 63"},
		{Geometry{S2W: 4096, MaxFrame: 1009}, "max frame is 1009, want 64 to 1008"},
		{Geometry{MaxFrame: 1 << 63}, "max frame"},
	} {
		for name, create := range map[string]func(Geometry) (*Segment, error){"Create": Create, "NewHeap": NewHeap} {
			if _, err := create(test.g); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s(%+v): %v, want …%s…", name, test.g, err, test.says)
			}
		}
	}
}

// hostileMemfd is a memfd with what Open looks at, all of it chosen by somebody else.
func hostileMemfd(t testing.TB, header []byte, size int64, withSeals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "hostile")
	t.Cleanup(func() { file.Close() })
	if _, err := file.Write(header); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if withSeals != 0 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, withSeals); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func headerOf(g Geometry) []byte {
	b := make([]byte, geometryBytes)
	encodeGeometry(b, g.withDefaults(), 1)
	return b
}

// fixCRC makes a spoilt header's checksum right.
func fixCRC(b []byte) {
	binary.LittleEndian.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
}

// TestOpenChecksEverything breaks one field at a time, the checksum being right.
func TestOpenChecksEverything(t *testing.T) {
	checkLeaks(t)
	g := geometries[0]
	g.Socket = false
	good := headerOf(g)
	size := int64(g.Bytes())
	open := func(header []byte, size int64, withSeals int) error {
		s, err := Open(int(hostileMemfd(t, header, size, withSeals).Fd()))
		if err == nil {
			s.Shutdown()
			s.Destroy()
		}
		return err
	}
	if err := open(good, size, seals); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for name, spoil := range map[string]func(b []byte){
		"magic":                func(b []byte) { b[7] = 2 },
		"version":              func(b []byte) { le.PutUint32(b[offVersion:], 2) },
		"header size":          func(b []byte) { le.PutUint32(b[offHeaderBytes:], 0x1000) },
		"segment size":         func(b []byte) { le.PutUint64(b[offSegmentBytes:], 0x2000) },
		"incarnation":          func(b []byte) { le.PutUint64(b[offIncarnation:], 0) },
		"flags":                func(b []byte) { le.PutUint32(b[offFlags:], 1) },
		"flags ":               func(b []byte) { le.PutUint32(b[offFlags:], 8) },
		"flags are 0x3":        func(b []byte) { le.PutUint32(b[offFlags:], 3) },
		"flags are 0x6":        func(b []byte) { le.PutUint32(b[offFlags:], 6) },
		"max frame":            func(b []byte) { le.PutUint64(b[offMaxFrame:], 1009) },
		"max frame ":           func(b []byte) { le.PutUint64(b[offMaxFrame:], 63) },
		"s2w offset":           func(b []byte) { le.PutUint64(b[offS2WOffset:], 0x1000) },
		"S2W capacity":         func(b []byte) { le.PutUint64(b[offS2WCapacity:], 4097) },
		"S2W capacity ":        func(b []byte) { le.PutUint64(b[offS2WCapacity:], 1<<63) },
		"w2s offset":           func(b []byte) { le.PutUint64(b[offW2SOffset:], 0x2000) },
		"W2S capacity":         func(b []byte) { le.PutUint64(b[offW2SCapacity:], 0) },
		"segment size is":      func(b []byte) { le.PutUint64(b[offW2SCapacity:], 8192) },
		"checksum (not fixed)": nil,
	} {
		b := append([]byte(nil), good...)
		if spoil != nil {
			spoil(b)
			fixCRC(b)
		} else {
			b[offPID]++
		}
		err := open(b, size, seals)
		var broken *ProtocolError
		what, _, _ := strings.Cut(strings.TrimSpace(name), " (")
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v, want a *ProtocolError about it", name, err)
		}
	}
	for name, err := range map[string]error{
		"file one byte short":   open(good, size-1, seals),
		"file one byte long":    open(good, size+1, seals),
		"file far too short":    open(good[:8], 8, seals),
		"file far too long":     open(good, 1<<40, seals),
		"not sealed":            open(good, size, 0),
		"sealed, but no shrink": open(good, size, unix.F_SEAL_GROW|unix.F_SEAL_SEAL),
	} {
		var broken *ProtocolError
		if !errors.As(err, &broken) {
			t.Errorf("%s: %v, want a *ProtocolError", name, err)
		}
	}
	if _, err := Open(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no file: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := Open(int(r.Fd())); err == nil {
		t.Error("a pipe was opened")
	}
}

// FuzzOpen: whatever the header, the checksum right or not, Open refuses it or maps what it says.
func FuzzOpen(f *testing.F) {
	for _, g := range geometries {
		f.Add(headerOf(g), uint32(g.withDefaults().Bytes()), true)
	}
	f.Add(headerOf(Geometry{}), uint32(1<<20), true)
	f.Add(make([]byte, geometryBytes), uint32(minSegment), true)
	f.Add([]byte(magic), uint32(0), false)
	f.Fuzz(func(t *testing.T, header []byte, size uint32, fix bool) {
		if size > 1<<20 { // what Open accepts it maps
			size %= 1 << 20
		}
		header = header[:min(len(header), geometryBytes)]
		if fix && len(header) == geometryBytes {
			fixCRC(header)
		}
		s, err := open(int(hostileMemfd(t, header, int64(size), seals).Fd()), 0, flagEventfd|flagSocket)
		if err != nil {
			var broken *ProtocolError
			if !errors.As(err, &broken) {
				t.Fatalf("%v, want a *ProtocolError", err)
			}
			return
		}
		g := s.Geometry()
		if err := g.validate(); err != nil {
			t.Error(err)
		}
		if got := len(s.mem); uint64(got) != g.Bytes() || got != int(size) {
			t.Errorf("mapped %d bytes of %d", got, size)
		}
		if g.Eventfd {
			s.event = &eventDoor{fd: -1} // nobody sleeps at it
		}
		if g.Socket {
			door, err := newSocketDoor()
			if err != nil {
				t.Fatal(err)
			}
			if err := door.listenHere(s.s2w.items.count); err != nil {
				t.Fatal(err)
			}
			s.socket = door
		}
		p, _ := s.Supervisor()
		_, c := s.Worker()
		if _, err := p.Send([]byte("hello")); err != nil {
			t.Error(err)
		}
		if msg, err := c.Recv(nil, 5); err != nil || string(msg) != "hello" {
			t.Errorf("%q, %v", msg, err)
		}
		s.Shutdown()
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
}

func TestCallersMistakesPanic(t *testing.T) {
	s := newHeap(t, geometries[0])
	s.Supervisor()
	mustPanic(t, "Supervisor, the second time", func() { s.Supervisor() })
	s.Worker()
	mustPanic(t, "Worker, the second time", func() { s.Worker() })
	mustPanic(t, "Destroy without Shutdown", func() { s.Destroy() })
	s.Shutdown()
	if err := s.Destroy(); err != nil {
		t.Error(err)
	}
	s.Shutdown()
	mustPanic(t, "Destroy, the second time", func() { s.Destroy() })
}

// TestSendAfterDestroy: a goroutine that comes late does no harm.
func TestSendAfterDestroy(t *testing.T) {
	checkLeaks(t)
	s, err := Create(geometries[0])
	if err != nil {
		t.Fatal(err)
	}
	p, _ := s.Supervisor()
	s.Shutdown()
	if err := s.Destroy(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Send([]byte("late")); err != ErrClosed {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// TestShutdownWhileEndsAreTaken: there is no moment at which a wait can miss a Shutdown.
func TestShutdownWhileEndsAreTaken(t *testing.T) {
	checkLeaks(t)
	for range 200 {
		s := newHeap(t, geometries[0])
		var wg sync.WaitGroup
		wg.Go(s.Shutdown)
		wg.Go(func() {
			_, c := s.Supervisor()
			c.items.spin.enabled = false
			if _, err := c.Recv(nil, 1); err != ErrClosed {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}

func TestCheckFindsDamage(t *testing.T) {
	for name, spoil := range map[string]func(s *Segment){
		"geometry":           func(s *Segment) { s.mem[offMaxFrame]++ },
		"geometry, crc":      func(s *Segment) { s.mem[offIncarnation]++; fixCRC(s.mem) },
		"tail beyond":        func(s *Segment) { s.s2w.tailWord.Add(1 << 20) },
		"tail unaligned":     func(s *Segment) { s.s2w.tailWord.Add(1) },
		"tail in a frame":    func(s *Segment) { s.w2s.tailWord.Add(^uint64(15)) },
		"head beyond":        func(s *Segment) { s.w2s.headWord.Add(1 << 20) },
		"head unaligned":     func(s *Segment) { s.w2s.headWord.Add(8) },
		"head and tail":      func(s *Segment) { s.w2s.headWord.Add(8); s.w2s.tailWord.Add(8) },
		"head in a frame":    func(s *Segment) { s.s2w.headWord.Add(16) },
		"header of a frame":  func(s *Segment) { s.s2w.data[0]++ },
		"sequence of frames": func(s *Segment) { putHeaderAt(&s.s2w, 32, header{len: 1, typ: typeData, seq: 2}) },
	} {
		s := newHeap(t, geometries[0])
		sp, _ := s.Supervisor()
		wp, _ := s.Worker()
		for _, p := range []*Producer{sp, wp} {
			for _, size := range []int{1, 1, 2000} {
				if _, err := p.Send(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		spoil(s)
		if err := s.Check(); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// putHeaderAt forges a frame's header with a right guard.
func putHeaderAt(r *ring, off uint64, h header) {
	low, high := h.encode(r.salt)
	binary.LittleEndian.PutUint64(r.data[off:], low)
	binary.LittleEndian.PutUint64(r.data[off+8:], high)
}
