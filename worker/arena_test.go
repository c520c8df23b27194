package worker

import (
	"hash/crc32"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// testRegion is an arena as the supervisor has it, and the test's own view of it.
type testRegion struct {
	file   *os.File
	memory []byte
}

func makeRegion(t *testing.T, bytes uint64) testRegion {
	t.Helper()
	file, err := shm.CreateArena(bytes)
	if err != nil {
		t.Fatal(err)
	}
	a, err := shm.OpenArena(int(file.Fd()), bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close()
		_ = file.Close()
	})
	return testRegion{file, a.Bytes()}
}

// tell sends a packet over the lifeline, with descriptors.
func (c *child) tell(packet []byte, files ...*os.File) {
	c.t.Helper()
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(int(c.lifeline.Fd()), packet, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) attach(id uint64, r testRegion) {
	c.t.Helper()
	c.tell(ipc.EncodeAttach(ipc.Attach{Bytes: uint64(len(r.memory)), Region: id}), r.file)
}

// ask makes a call about tensors and outputs.
func (c *child) ask(action string, tensors []ipc.Tensor, outputs ...ipc.Output) (*ipc.Reply, error) {
	c.t.Helper()
	call, err := c.caller.Start(&ipc.Request{Action: action, Tensors: tensors, Outputs: outputs}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return call.Recv(bounded(c.t))
}

func at(region, offset, length uint64) []ipc.Tensor {
	return []ipc.Tensor{{Name: "x", DType: "uint8", Shape: []uint64{length}, At: ipc.Range{Region: region, Offset: offset, Length: length}}}
}

// files is what the worker has open and mapped of arenas.
func (c *child) files() int {
	c.t.Helper()
	pid := c.cmd.Process.Pid
	n := 0
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.Contains(target, "ringmaster-arena") {
			n++
		}
	}
	maps, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		c.t.Fatal(err)
	}
	return n + strings.Count(string(maps), "/memfd:ringmaster-arena")
}

func TestWorkerArenas(t *testing.T) {
	c := start(t, setup{})
	if hello := await(t, c.hello, "hello"); hello.Arena != 1 {
		t.Errorf("its hello says arena: %d", hello.Arena)
	}
	r := makeRegion(t, 8192)
	for i := range r.memory {
		r.memory[i] = byte(i * 7)
	}
	c.attach(5, r)
	reply, err := c.ask("checksum", at(5, 64, 5000))
	var sums map[string]uint32
	if err == nil {
		err = reply.Body.Decode(&sums)
	}
	if want := crc32.Checksum(r.memory[64:5064], castagnoli); err != nil || sums["x"] != want {
		t.Errorf("%v, %v; want %d", sums, err, want)
	}

	// Echo puts what it was sent into its slot; what has none comes by itself.
	reply, err = c.ask("echo", at(5, 0, 100), ipc.Output{Name: "x", At: ipc.Range{Region: 5, Offset: 4096, Length: 100}})
	if err != nil || reply.Tensors[0].At != (ipc.Range{Region: 5, Offset: 4096, Length: 100}) || string(r.memory[4096:4196]) != string(r.memory[:100]) {
		t.Errorf("%+v, %v", reply, err)
	}
	reply, err = c.ask("echo", at(5, 0, 100), ipc.Output{Name: "x", At: ipc.Range{Region: 5, Offset: 4096, Length: 99}})
	if err != nil || reply.Tensors[0].At.Region != 0 || string(reply.Tensors[0].Data) != string(r.memory[:100]) {
		t.Errorf("%+v, %v", reply, err)
	}

	// What it was not told of, and what is not there, concerns that request only.
	for name, tensors := range map[string][]ipc.Tensor{"unknown": at(6, 0, 1), "beyond": at(5, 8192, 64), "not aligned": at(5, 1, 1), "overflow": at(5, 1<<64-64, 128)} {
		_, err := c.ask("echo", tensors)
		if err == nil || ipc.AsError(err).Reason != "bad_region" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = c.ask("echo", nil, ipc.Output{Name: "x", At: ipc.Range{Region: 6, Length: 1}})
	wantError(t, err, ipc.InvalidArgument, "bad_region")

	c.tell(ipc.EncodeDetach(ipc.Detach{Region: 5}))
	c.attach(7, r) // after which the worker has read the one before
	if _, err := c.ask("checksum", at(7, 0, 1)); err != nil {
		t.Error(err)
	}
	_, err = c.ask("checksum", at(5, 0, 1))
	wantError(t, err, ipc.InvalidArgument, "bad_region")
	c.tell(ipc.EncodeDetach(ipc.Detach{Region: 7}))
	poll(t, "it to be unmapped", func() bool { return c.files() == 0 })
}

// Packets that are none, and descriptors that are no arenas, leave nothing behind and change nothing.
func TestWorkerIgnoresOtherPackets(t *testing.T) {
	c := start(t, setup{})
	await(t, c.hello, "hello")
	r, other := makeRegion(t, 4096), makeRegion(t, 8192)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	attach := func(bytes, id uint64) []byte { return ipc.EncodeAttach(ipc.Attach{Bytes: bytes, Region: id}) }
	c.attach(1, r)
	for _, packet := range [][]byte{nil, {0xc1}, {0x92, 9, 0}, []byte(strings.Repeat("x", 500)), ipc.EncodeDetach(ipc.Detach{Region: 9}), attach(4096, 2)} {
		c.tell(packet)
	}
	c.tell(nil, r.file)
	c.tell([]byte{0x92, 42, 0}, r.file)
	c.tell(attach(4096, 2), r.file, other.file)    // two descriptors
	c.tell(attach(8192, 2), r.file)                // of another size
	c.tell(attach(4096, 0), r.file)                // no region
	c.tell(attach(8192, 1), other.file)            // there already
	c.tell(attach(4096, 2), null)                  // no memory at all
	c.tell(ipc.EncodeDetach(ipc.Detach{}), r.file) // nothing comes with these
	_, err = c.ask("checksum", at(2, 0, 1))
	wantError(t, err, ipc.InvalidArgument, "bad_region")
	r.memory[0] = 9
	reply, err := c.ask("echo", at(1, 0, 4096))
	if err != nil || reply.Tensors[0].Data[0] != 9 {
		t.Errorf("%v", err)
	}
	if n := c.files(); n != 1 {
		t.Errorf("%d mappings and descriptors of arenas, want the one mapping", n)
	}
}

// A worker that has no address space left for an arena says so to those who name it, and forgets it like any other. (A process cannot be brought there from outside: its runtime would die first.)
func TestWorkerWithoutRoomForAnArena(t *testing.T) {
	a := &arenas{regions: map[uint64]*region{1: {}}, more: func() {}}
	_, err := a.resolve(&Request{Tensors: at(1, 0, 1)})
	wantError(t, err, ipc.Unavailable, "arena_busy")
	a.packet(ipc.EncodeDetach(ipc.Detach{Region: 1}), nil)
	_, err = a.resolve(&Request{Tensors: at(1, 0, 1)})
	wantError(t, err, ipc.InvalidArgument, "bad_region")
}
