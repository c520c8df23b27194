package session

import (
	"context"
	"net/url"
	"strconv"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// maxID is the length of the longest id of a session.
const maxID = 128

// key names a session: whose it is, and what that one calls it.
type key struct {
	owner string
	id    string
}

// owner is whose sessions a request may use: those of who asks by chain/auth's account, else of the user that the kernel named when its client connected, who has the same name there. "": nobody can say who it is.
func owner(ctx context.Context, req *ipc.Request) string {
	peer, ok := chain.PeerFrom(ctx)
	switch {
	case req.Principal != "":
		return req.Principal
	case !ok:
		return "self"
	case peer.UID == chain.NoID:
		return ""
	}
	return "user " + strconv.FormatUint(uint64(peer.UID), 10)
}

// keyOf names a session of whoever makes the request.
func keyOf(ctx context.Context, req *ipc.Request, id string) (key, error) {
	if len(id) == 0 || len(id) > maxID || !printable(id) {
		return key{}, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the header session is %q; a session's id is 1 to %d characters of ASCII that can be seen", clip(id), maxID)
	}
	who := owner(ctx, req)
	if who == "" {
		return key{}, errNobody
	}
	return key{who, id}, nil
}

var errNobody = ipc.Errorf(ipc.PermissionDenied, "session_owner", "sessions belong to whoever began them, and it cannot be told who this is; use the Unix socket, or a token")

func printable(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > maxID {
		return s[:maxID] + "…"
	}
	return s
}

// String is the key as stores have it: no two keys have one.
func (k key) String() string { return prefixOf(k.owner) + k.id }

// prefixOf is what the keys of an owner, and of nobody else, begin with.
func prefixOf(owner string) string { return url.PathEscape(owner) + "/" }

// affinity is a number for the key, by which its requests find the same worker: FNV-1a, 64 bits. It is never 0.
func (k key) affinity() uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(k.String()) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(1, h)
}
