package gateway

import (
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

// expel hangs up on a client that had to show a token and has shown none in time.
func (c *conn) expel() {
	if !c.proven.Load() {
		c.close()
	}
}
