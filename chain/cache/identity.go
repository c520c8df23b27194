package cache

import (
	"context"
	"encoding/binary"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Identity appends to dst who asks, as far as answers may differ by it: whoever is appended as the same bytes may see the same answers. It must tell everybody apart who may not.
type Identity func(ctx context.Context, req *ipc.Request, dst []byte) []byte

// byUser tells apart whom package auth has told apart, or else users, as the kernel knows them.
func byUser(ctx context.Context, req *ipc.Request, dst []byte) []byte {
	if req.Principal != "" {
		return append(append(dst, "principal"...), req.Principal...)
	}
	uid := req.Client.UID
	if peer, ok := chain.PeerFrom(ctx); ok {
		uid = peer.UID
	}
	return binary.LittleEndian.AppendUint32(append(dst, "uid"...), uid)
}
