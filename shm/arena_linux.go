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

// EmptyArena gives an arena's memory back to the system, whoever else still has it mapped: they find zeros. It is for one that its client has given up; the file is closed as well.
func EmptyArena(file *os.File, size uint64) error {
	// Fd puts a file into blocking mode; a memfd has no other.
	err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	if err != nil {
		err = fmt.Errorf("shm: empty arena: %w", err)
	}
	return errors.Join(err, file.Close())
}
