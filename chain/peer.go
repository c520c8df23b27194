package chain

import (
	"context"
	"sync/atomic"
)

// NoID is the uid, gid and group of nobody: of a peer that came by TCP, where the kernel names no user. No process of Linux has it.
const NoID = ^uint32(0)

// Standing is what the socket itself makes of a peer, before any configuration.
type Standing uint8

// The standings there are, in order of trust.
const (
	Remote   Standing = iota // it came by TCP: nobody vouches for it
	Stranger                 // another user, who is not in the socket's group
	Member                   // of the socket's group
	Owner                    // root, or the user that the server runs as
	Self                     // the server's own process
)

// Peer is the process at the other end of a connection, as the kernel recorded it when it connected.
type Peer struct {
	PID      int32
	UID      uint32 // [NoID] by TCP
	GID      uint32
	Groups   []uint32 // supplementary
	CGroup   string   // its control group, such as /system.slice/robot.service; "": nobody asked, or it could not be told
	Standing Standing
	Address  string // of a Remote: its address and port

	Memo *atomic.Value // the connection's, where chain/auth keeps what it found out about the peer; nil: nowhere
}

type peerKey struct{}

// WithPeer returns a context for the requests of a peer.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, &p)
}

// PeerFrom returns the peer whose request ctx belongs to; false: the request is the server's own.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(*Peer)
	if !ok {
		return Peer{}, false
	}
	return *p, true
}
