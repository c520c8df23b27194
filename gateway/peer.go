package gateway

import (
	"slices"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// door says who may come in.
type door struct {
	uid uint32 // the server's
	gid uint32 // the socket file's
}

// admit lets in the server's own user, root, and the members of the socket's group.
func (d door) admit(p chain.Peer) *ipc.Error {
	if p.UID == d.uid || p.UID == 0 || p.GID == d.gid || slices.Contains(p.Groups, d.gid) {
		return nil
	}
	return ipc.Errorf(ipc.PermissionDenied, "peer", "user %d may not use this socket; run as user %d, or join the socket's group %d", p.UID, d.uid, d.gid)
}
