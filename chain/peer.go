package chain

import "context"

// Peer is the process at the other end of a connection, as the kernel recorded it when it connected.
type Peer struct {
	PID    int32
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

type peerKey struct{}

// WithPeer returns a context for the requests of a peer.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerFrom returns the peer whose request ctx belongs to; false: the request is the server's own.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
