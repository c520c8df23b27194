package worker

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// lifeline is the socket whose end of file says that the supervisor is gone.
type lifeline struct {
	file *os.File
}

func openLifeline() (*lifeline, error) {
	if err := unix.SetNonblock(ipc.LifelineFD, true); err != nil { // lets the runtime's poller wait for it, and no thread
		return nil, fmt.Errorf("worker: fd %d, the lifeline: %w", ipc.LifelineFD, err)
	}
	return &lifeline{file: os.NewFile(ipc.LifelineFD, "lifeline")}, nil
}

// watch exits the process when the supervisor is gone. It runs until then, on a goroutine that ends with the process.
func (l *lifeline) watch() {
	var packet [64]byte
	for {
		_, err := l.file.Read(packet[:]) // version 1 says nothing here; what is too long for packet is cut off
		if errors.Is(err, io.EOF) && !l.hungUp() {
			continue // an empty packet
		}
		if err != nil {
			os.Exit(1)
		}
	}
}

// hungUp tells the end of file from an empty packet, which reads the same.
func (l *lifeline) hungUp() bool {
	fds := []unix.PollFd{{Fd: ipc.LifelineFD, Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents != 0
}
