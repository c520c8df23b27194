package gateway

import (
	"context"
	"slices"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Peer is the process at the other end of a connection, as the kernel recorded it when it connected.
type Peer struct {
	PID    int32
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

type peerKey struct{}

// PeerFrom returns the peer whose request ctx belongs to.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// door says who may come in.
type door struct {
	uid uint32 // the server's
	gid uint32 // the socket file's
}

// admit lets in the server's own user, root, and the members of the socket's group.
func (d door) admit(p Peer) *ipc.Error {
	if p.UID == d.uid || p.UID == 0 || p.GID == d.gid || slices.Contains(p.Groups, d.gid) {
		return nil
	}
	return ipc.Errorf(ipc.PermissionDenied, "peer", "user %d may not use this socket; run as user %d, or join the socket's group %d", p.UID, d.uid, d.gid)
}
