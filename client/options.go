package client

import (
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Tensor is a dense array in row-major order, little-endian.
type Tensor = ipc.Tensor

// Error is how a call fails. Code and Reason are stable, for programs; Message is for people and says what to do next.
type Error = ipc.Error

// DialOption changes how [Dial] connects.
type DialOption func(*dialConfig)

type dialConfig struct {
	address string
	ring    uint64
	token   string
	arena   uint64
}

// WithAddress names the server's socket, unix:///path or a plain path, or its port, tcp://127.0.0.1:8080, instead of the one that $RINGMASTER_SOCKET or the host's conventions name.
func WithAddress(address string) DialOption {
	return func(c *dialConfig) { c.address = address }
}

// WithToken sends a token with each request, which the server then takes for who asks. By TCP it needs one. "" sends none, also where $RINGMASTER_TOKEN is set.
func WithToken(token string) DialOption {
	return func(c *dialConfig) { c.token = token }
}

// ringCapacity is how large each of a client's rings is, unless [WithRing] says otherwise: docs/decisions/0010-client-rings.md has the measurements.
const ringCapacity = 1 << 20

// WithRing says how large each of the two rings in shared memory should be that the client asks the server for, in bytes; the server may make them smaller, or have none to give. Larger ones suit many large
// messages at a time. 0 is none: everything goes through the socket. The default is 1 MiB.
func WithRing(bytes int) DialOption {
	return func(c *dialConfig) { c.ring = uint64(max(0, bytes)) }
}

// WithArena says how many bytes of arenas the client may ask for by itself, on each connection, when it has large tensors to send; they are made as they are needed, several times as large as what is. If the server
// has none to give, tensors travel in messages as ever. 0 is none. The default is 64 MiB. See [Client.Arena].
func WithArena(bytes int) DialOption {
	return func(c *dialConfig) { c.arena = uint64(max(0, bytes)) }
}

// CallOption adds to one call.
type CallOption func(*callConfig)

type callConfig struct {
	req     ipc.Request
	timeout time.Duration
	session string
}

// WithTensors sends tensors with the request.
func WithTensors(tensors ...Tensor) CallOption {
	return func(c *callConfig) { c.req.Tensors = append(c.req.Tensors, tensors...) }
}

// WithOutputs says where the reply's tensors are to be written: into the memory of these, which [Arena.Tensor] returned, by name. Their dtypes and shapes mean nothing, only how many bytes they have. A reply's tensor that lies there
// is a view of it, valid as long as that one; one that is larger, or whose worker cannot write there, comes in memory of its own as without this option, so look at the reply. Of a stream's chunks one at most has a tensor of a name there.
func WithOutputs(tensors ...Tensor) CallOption {
	return func(c *callConfig) {
		for _, t := range tensors {
			c.req.Outputs = append(c.req.Outputs, ipc.Output{Name: t.Name, Data: t.Data})
		}
	}
}

// WithHeaders sends headers with the request.
func WithHeaders(headers map[string]string) CallOption {
	return func(c *callConfig) { c.req.Headers = headers }
}

// WithSession makes the request one of a session, where the server keeps them: it sends the header session. An id has 1 to 128 visible characters of ASCII.
func WithSession(id string) CallOption {
	return func(c *callConfig) { c.session = id }
}

// WithTimeout ends the call with DEADLINE_EXCEEDED after d, if the context has no earlier deadline. Without either, the pool's own timeout applies.
func WithTimeout(d time.Duration) CallOption {
	return func(c *callConfig) { c.timeout = d }
}

// WithTraceID sends a W3C traceparent.
func WithTraceID(traceparent string) CallOption {
	return func(c *callConfig) { c.req.TraceID = traceparent }
}

// WithContext sends the session's opaque bytes.
func WithContext(blob []byte) CallOption {
	return func(c *callConfig) { c.req.Context = blob }
}

// WithCredit says how many chunks of a stream may be under way before the loop has taken them; more hides latency, fewer saves memory when chunks are large. The default is 16.
func WithCredit(n uint32) CallOption {
	return func(c *callConfig) { c.req.Credit = n }
}
