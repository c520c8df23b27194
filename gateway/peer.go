package gateway

import (
	"os"
	"slices"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Gate knows who may come in and ask, where the configuration says more of it than the socket itself does. chain/auth has one.
type Gate interface {
	// Admit decides about a process that has connected to the Unix socket; plain is what the socket itself makes of it, nil or why it may not stay. One that is not sure has to show, with a request, that
	// Authenticate takes it for somebody, or is hung up on before long.
	Admit(p chain.Peer, plain *ipc.Error) (sure bool, _ *ipc.Error)
	// Authenticate says why a request with this authorization, "" for none, is nobody's; nil: it is somebody's, and the call chain says what they may do.
	Authenticate(p chain.Peer, authorization string) *ipc.Error
	// WantsCGroup reports whether Admit wants to know the peer's control group.
	WantsCGroup() bool
}

// door says who may come in, as long as no Gate says otherwise.
type door struct {
	uid uint32 // the server's
	gid uint32 // the socket file's
}

// standing is what the socket makes of a process.
func (d door) standing(p chain.Peer) chain.Standing {
	switch {
	case p.PID == int32(os.Getpid()):
		return chain.Self
	case p.UID == d.uid || p.UID == 0:
		return chain.Owner
	case p.GID == d.gid || slices.Contains(p.Groups, d.gid):
		return chain.Member
	}
	return chain.Stranger
}

// admit lets in the server's own user, root, and the members of the socket's group.
func (d door) admit(p chain.Peer) *ipc.Error {
	if d.standing(p) >= chain.Member {
		return nil
	}
	return ipc.Errorf(ipc.PermissionDenied, "peer", "user %d may not use this socket; run as user %d, or join the socket's group %d", p.UID, d.uid, d.gid)
}
