package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

func TestArenaPolicy(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		arenas        Arenas
		memory        int64
		client, total int64
	}{
		{Arenas{}, 64 * gib, 256 * mib, gib},
		{Arenas{}, gib, 128 * mib, 512 * mib},
		{Arenas{Client: 2 * gib}, 64 * gib, 2 * gib, 2 * gib},
		{Arenas{Client: 2 * gib}, gib, 2 * gib, 2 * gib}, // who says so knows
		{Arenas{Total: 100 * mib}, 64 * gib, 100 * mib, 100 * mib},
		{Arenas{Client: mib, Total: 3 * mib}, gib, mib, 3 * mib},
		{Arenas{Off: true, Total: mib}, gib, 0, 0},
	} {
		if got := c.arenas.within(c.memory); got.Client != c.client || got.Total != c.total {
			t.Errorf("%+v on %d MiB: %d MiB for one, %d for all; want %d and %d", c.arenas, c.memory/mib, got.Client/mib, got.Total/mib, c.client/mib, c.total/mib)
		}
	}
}

// attach asks for an arena, which is not mapped.
func (c *testClient) attach(t *testing.T, bytes uint64) uint64 {
	t.Helper()
	region, _, file, err := c.Attach(t.Context(), bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
	return region
}

func inRegion(region uint64) func(*ipc.Request) {
	return func(r *ipc.Request) {
		r.Tensors = []ipc.Tensor{{Name: "x", DType: "uint8", Shape: []uint64{64}, At: ipc.Range{Region: region, Length: 64}}}
	}
}

// A connection's regions are its own.
func TestOthersRegions(t *testing.T) {
	store := arena.New(arena.Limits{Client: 1 << 20, Total: 1 << 20, Regions: 8, Files: 8})
	s := start(t, newFake(), Config{MaxMessage: 1 << 20, Lent: store})
	mine, theirs, plain := dialRing(t, s.path, 64<<10), dialRing(t, s.path, 64<<10), dial(t, s.path)
	if mine.hello.Arena != 1<<20 || plain.hello.Arena != 0 {
		t.Errorf("the hellos say %d and %d bytes", mine.hello.Arena, plain.hello.Arena)
	}
	region := mine.attach(t, 4096)
	if _, err := recv(mine.call(t, "echo", inRegion(region))); err != nil {
		t.Error(err)
	}
	for who, c := range map[string]*testClient{"another": theirs, "one without rings": plain} {
		_, err := recv(c.call(t, "echo", inRegion(region)))
		if wantReason(t, err, "INVALID_ARGUMENT/bad_region"); err != nil && !strings.Contains(err.Error(), "there is no region") {
			t.Errorf("%s: %v", who, err)
		}
	}
	_, err := recv(mine.call(t, "echo", inRegion(region+1)))
	wantReason(t, err, "INVALID_ARGUMENT/bad_region")
	theirs.Detach(region)
	theirs.echo(t)
	if _, err := recv(mine.call(t, "echo", inRegion(region))); err != nil {
		t.Errorf("after another has detached it: %v", err)
	}
	mine.Detach(region)
	eventually(t, "it to be given back", func() bool { return store.Usage().Regions == 0 })
	_, err = recv(mine.call(t, "echo", inRegion(region)))
	wantReason(t, err, "INVALID_ARGUMENT/bad_region")
	mine.echo(t)

	held := mine.attach(t, 4096)
	call := mine.call(t, "block", inRegion(held))
	mine.hangUp()
	_, _ = recv(call)
	eventually(t, "what a client had that hung up", func() bool { return store.Usage().Regions == 0 })
}

// rawRings are a client's rings of which nobody reads the socket.
type rawRings struct {
	conn *net.UnixConn
	seg  *shm.Segment
	out  *shm.Producer
	in   *shm.Consumer
}

// Ring implements [shm.Bell].
func (r *rawRings) Ring(what byte) { _, _ = r.conn.Write([]byte{what}) }

func dialRaw(t *testing.T, path string) *rawRings {
	t.Helper()
	r := &rawRings{conn: connect(t, path).(*net.UnixConn)}
	hello := []byte{0x97, 5, 0, 1, 1, 0xa1, 's', 0x90, 0x81, 0xa4, 'r', 'i', 'n', 'g', 0xce, 0, 1, 0, 0} // rings of 64 KiB
	if _, err := r.conn.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(hello))), hello...)); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 4096), make([]byte, 64)
	_, n, _, _, err := r.conn.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "rings")
	defer file.Close()
	if r.seg, err = shm.OpenBelled(fds[0]); err != nil {
		t.Fatal(err)
	}
	r.seg.UseBell(r)
	r.out, r.in = r.seg.Worker()
	t.Cleanup(func() {
		r.seg.Shutdown()
		_ = r.seg.Destroy()
	})
	return r
}

// say sends a message and returns the next one, for which it looks again and again: nobody hears the bell.
func (r *rawRings) say(t *testing.T, message ...byte) (answer any) {
	t.Helper()
	if _, err := r.out.Send(message); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() {
		b, err := r.in.Recv(nil, 1<<20)
		if err != nil {
			b = nil
		}
		got <- b
	}()
	var b []byte
	eventually(t, "an answer", func() bool {
		r.seg.Rung(shm.RungItems)
		select {
		case b = <-got:
			return true
		default:
			return false
		}
	})
	m, err := ipc.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A client that asks for arenas and reads no descriptor is told so, and holds no memory beyond its quota.
func TestDescriptorsThatNobodyReads(t *testing.T) {
	store := arena.New(arena.Limits{Client: 1 << 20, Total: 1 << 20, Regions: 64, Files: 64})
	s := start(t, newFake(), Config{MaxMessage: 1 << 20, Lent: store})
	r := dialRaw(t, s.path)
	attached := 0
	for busy := false; !busy; {
		if attached > 100_000 {
			t.Fatal("it goes on for ever")
		}
		switch m := r.say(t, 0x93, 9, 7, 0xcd, 0x10, 0).(type) {
		case *ipc.Attach:
			if m.ID != 7 || m.Region == 0 || m.Bytes != 4096 {
				t.Fatalf("got %+v", m)
			}
			attached++
			if _, err := r.out.Send(ipc.EncodeDetach(ipc.Detach{Region: m.Region})); err != nil {
				t.Fatal(err)
			}
		case *ipc.Reply:
			wantReason(t, m.Err, "UNAVAILABLE/arena_busy")
			busy = true
		default:
			t.Fatalf("got %#v", m)
		}
	}
}

// An attach under an id that is open, or under none, ends the connection, as a request would.
func TestAttachUnderABadID(t *testing.T) {
	store := arena.New(arena.Limits{Client: 1 << 20, Total: 1 << 20, Regions: 64, Files: 64})
	s := start(t, newFake(), Config{MaxMessage: 1 << 20, Lent: store})
	for name, c := range map[string]struct {
		first, then []byte
		want        string
	}{
		"0":    {nil, []byte{0x93, 9, 0, 1}, "INVALID_ARGUMENT/bad_message"},
		"open": {[]byte{0x94, 1, 5, 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k'}, []byte{0x93, 9, 5, 1}, "INVALID_ARGUMENT/duplicate_id"},
	} {
		r := dialRaw(t, s.path)
		if c.first != nil {
			if _, err := r.out.Send(c.first); err != nil {
				t.Fatal(err)
			}
		}
		m, ok := r.say(t, c.then...).(*ipc.Reply)
		if !ok || m.ID != 0 {
			t.Fatalf("%s: got %#v", name, m)
		}
		wantReason(t, m.Err, c.want)
		if _, err := io.Copy(io.Discard, r.conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
