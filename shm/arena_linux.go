package shm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fileSize is the size of the file behind fd, in bytes.
func fileSize(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fstat: %w", err)
	}
	return uint64(max(0, st.Size)), nil
}

// countable returns the file opened a second time, in place of the first: the kernel counts those who write to a file that was opened, and not those who do to one that memfd_create made. See [Remains].
func countable(file *os.File) *os.File {
	fd, err := unix.Open(procPath(file), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil { // there is no /proc
		return file
	}
	name := file.Name()
	_ = file.Close()
	return os.NewFile(uintptr(fd), name)
}

// procPath is a path by which an open file can be opened again.
func procPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

// Remains are what is left of an arena that its maker has closed: descriptors, and mappings, of other processes. They are no more than a descriptor, which tells whether there are any.
type Remains struct {
	file *os.File
}

// LeaveArena closes an arena's file, in such a way that it can be told when nobody else has it any more. On an error it is closed all the same.
func LeaveArena(file *os.File) (*Remains, error) {
	fd, err := unix.Open(procPath(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	err = errors.Join(err, file.Close())
	if err != nil {
		return nil, fmt.Errorf("shm: leave arena: %w", err)
	}
	return &Remains{os.NewFile(uintptr(fd), file.Name())}, nil
}

// Gone reports whether nobody else has the arena any more; then its memory is given back. It is not to be asked again.
//
// A lease for writing is given only to who has the only open file there is. Mappings keep the file open that they were made of.
func (r *Remains) Gone() bool {
	_, err := unix.FcntlInt(r.file.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	_ = r.file.Close() // and with it the lease. Any other error: this kernel does not say
	return true
}

// EmptyArena gives an arena's memory back to the system, whoever else still has it mapped: they find zeros. It is for one that its client has given up; the file is closed as well.
func EmptyArena(file *os.File, size uint64) error {
	// Fd puts a file into blocking mode; a memfd has no other.
	err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	if err != nil {
		err = fmt.Errorf("shm: empty arena: %w", err)
	}
	return errors.Join(err, file.Close())
}
