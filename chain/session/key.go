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

// owner is whose sessions a request may use: those of the user that the kernel named when its client connected. What else tells clients apart belongs here.
func owner(ctx context.Context) string {
	peer, ok := chain.PeerFrom(ctx)
	if !ok {
		return "self"
	}
	return strconv.FormatUint(uint64(peer.UID), 10)
}

// keyOf names the session of a request that has one.
func keyOf(ctx context.Context, id string) (key, error) {
	if len(id) == 0 || len(id) > maxID || !printable(id) {
		return key{}, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the header session is %q; a session's id is 1 to %d characters of ASCII that can be seen", clip(id), maxID)
	}
	return key{owner(ctx), id}, nil
}

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
