package gateway

// protocol is what a client speaks on its connection.
type protocol int

const (
	undecided    protocol = iota
	speaksNative          // frames, docs/protocol.md, section 7
	speaksHTTP            // 1.1, or 2 without TLS
)

// telling is how many bytes tell the protocols apart.
const telling = 4

// detect is the policy: the protocol by the first bytes of a connection. An HTTP method, or the PRI of HTTP/2's preface, is in capitals; read as the length of a frame it would be more than half a
// gigabyte, and the first frame has at most 64 KiB.
func detect(first []byte) protocol {
	for i, c := range first {
		switch {
		case i == telling:
			return speaksHTTP
		case c >= 'A' && c <= 'Z', i == 3 && (c == ' ' || c == '-'):
		default:
			return speaksNative
		}
	}
	if len(first) < telling {
		return undecided
	}
	return speaksHTTP
}
