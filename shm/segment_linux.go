package shm

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// seals are what keeps a mapping from being pulled away: a reader beyond the end of a file that shrank would die of SIGBUS.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// memfdName shows up in /proc/PID/maps and nowhere else; so do other names of memfds.
const memfdName = "ringmaster"

// fallocate is a variable for tests: memory cannot be made to run out.
var fallocate = unix.Fallocate

// createMemfd returns a new memfd of size bytes, all of them backed by memory, that can neither shrink nor grow. The caller
// closes it.
func createMemfd(name string, size int64) (file *os.File, err error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.Ftruncate(fd, size); err != nil {
		return nil, fmt.Errorf("ftruncate to %d bytes: %w", size, err)
	}
	if err := allocate(fd, size); err != nil {
		return nil, fmt.Errorf("allocate %d bytes of shared memory: %w", size, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal memfd: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// allocate backs the file with memory now, so that a lack of it is an error here and not a SIGBUS later. It goes in steps,
// because a signal makes fallocate start over: a profiler's could keep a large one from ever finishing.
func allocate(fd int, size int64) error {
	const step = 16 << 20
	for off := int64(0); off < size; {
		err := fallocate(fd, 0, off, min(step, size-off))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		off += step
	}
	return nil
}

// checkSeals reports an error if the file behind fd could still shrink.
func checkSeals(fd int) error {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("get seals (is it a memfd?): %w", err)
	}
	if got&seals != seals {
		return geometryError("seals are %#x, want at least %#x", got, seals)
	}
	return nil
}

// readGeometry reads and checks the header of the segment behind fd.
func readGeometry(fd int) (Geometry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Geometry{}, fmt.Errorf("fstat: %w", err)
	}
	if st.Size < minSegment || st.Size > maxSegment {
		return Geometry{}, geometryError("file size is %d, want %d to %d", st.Size, minSegment, maxSegment)
	}
	var b [geometryBytes]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return Geometry{}, fmt.Errorf("read header: %w", err)
	}
	if n != len(b) {
		return Geometry{}, fmt.Errorf("read header: %d bytes, want %d", n, len(b))
	}
	return decodeGeometry(b[:], uint64(st.Size))
}

// mapMemory maps the segment. MAP_POPULATE sets up the page tables now, not fault by fault during the first lap of the rings.
func mapMemory(fd int, size uint64) ([]byte, error) {
	if size > 1<<(strconv.IntSize-1)-1 {
		return nil, fmt.Errorf("mmap: %d bytes are more than this machine can address", size)
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes: %w", size, err)
	}
	return mem, nil
}

func unmapMemory(mem []byte) error {
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("munmap: %w", err)
	}
	return nil
}
