package ipc

const (
	firstWindow = 4       // replies, while nothing is known of their size
	leastWindow = 2       // replies: one on its way while another is taken
	windowBytes = 4 << 20 // what a window of more than that many replies should hold at most
)

// window says how much credit a call's peer gets. It is pure: no clock, no lock.
//
// Where the replies that wait are charged to a client, credit follows their size: few to begin with, twice as many at every grant while they are small, fewer again when large ones come. So a
// reader of large replies slows its worker down long before what waits for it fills its share, and a reader of small ones has as many under way as it asked for. Credit that was
// granted cannot be taken back; a window shrinks by granting nothing for a while.
type window struct {
	most     uint32 // immutable: the most replies that the requester takes
	adaptive bool   // immutable
	size     uint32 // replies that may be under way or wait now
	taken    uint32 // since the last grant
	large    int    // bytes: the largest reply of late, forgotten by and by
}

func newWindow(most uint32, adaptive bool) window {
	w := window{most: most, adaptive: adaptive, size: most}
	if adaptive {
		w.size = min(most, firstWindow)
	}
	return w
}

// take counts a reply of so many bytes as taken, and returns how much credit to grant now.
func (w *window) take(bytes int) uint32 {
	w.taken++
	w.large = max(bytes, w.large-w.large/8)
	if 2*w.taken < w.size {
		return 0
	}
	target := w.target()
	if w.size > target+w.taken { // it shrinks by what was taken
		w.size -= w.taken
		w.taken = 0
		return 0
	}
	grant := target + w.taken - w.size
	w.size, w.taken = target, 0
	return grant
}

// target is the size that would be right.
func (w *window) target() uint32 {
	if !w.adaptive {
		return w.most
	}
	fitting := uint32(min(windowBytes/max(1, w.large), int(w.most)))
	return min(max(fitting, min(leastWindow, w.most)), 2*w.size)
}
