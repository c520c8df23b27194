package gateway

import (
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// authorizationHeader is the request header in which the call chain looks for a token.
const authorizationHeader = "authorization"

// remote reports whether the client came by TCP.
func (c *conn) remote() bool { return c.peer.Standing == chain.Remote }

// prove says why a request with this authorization is nobody's; nil: it is somebody's. The call chain asks again when the request is known; this comes before its body is read.
func (c *conn) prove(authorization string) *ipc.Error {
	if c.srv.cfg.Gate == nil || c.sure && authorization == "" {
		return nil
	}
	if e := c.srv.cfg.Gate.Authenticate(c.peer, authorization); e != nil {
		c.srv.refused.log(c.peer, e)
		return e
	}
	if !c.sure {
		c.proven.Store(true)
	}
	return nil
}

// unknownFrame is the size in bytes of the largest frame that is read from a client by TCP who has shown no token: a stranger holds no more of the memory than that at a time.
const unknownFrame = 64 << 10

// unknown refuses a frame of so many bytes by TCP if it is too large as long as nobody knows who sends it. By the socket the kernel says whose share it is.
func (c *conn) unknown(size int) *ipc.Error {
	if size <= unknownFrame || !c.remote() || c.proven.Load() {
		return nil
	}
	return ipc.Errorf(ipc.PermissionDenied, "unauthenticated", "this connection has shown no token yet, and until then its requests have %d bytes at most, not %d; begin with a small one that has the token, such as `whoami` of the pool %s", unknownFrame, size, controlPool)
}

// expel hangs up on a client that had to show a token and has shown none in time.
func (c *conn) expel() {
	if !c.proven.Load() {
		c.close()
	}
}

// refuse answers a request whose body has not been read with an error, in the form that its path has.
func (x *exchange) refuse(e *ipc.Error) {
	x.w.Header().Set("Connection", "close")                              // the body is not wanted
	_ = x.out.SetReadDeadline(time.Now().Add(x.web.srv.cfg.ReadTimeout)) // for what of it is on its way
	x.fail(e)
}

// fail answers with an error in the form that the request's path has.
func (x *exchange) fail(e *ipc.Error) {
	if x.r.ProtoMajor == 2 && speaksGRPC(x.r) {
		(&grpcCall{exchange: x}).end(e)
		return
	}
	switch protocolOf(x.r.URL.Path) {
	case "jsonrpc":
		retryAfter(x.w.Header(), e)
		x.rpcAnswer(httpStatus(e), rpcCall{}.response(nil, rpcErrorOf(e)))
	case "oip":
		x.oipError(e)
	case "openai":
		x.openaiError(e)
	default:
		x.notReady(e)
	}
}
