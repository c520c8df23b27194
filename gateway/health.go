package gateway

import (
	"context"
	"net/http"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// controlPool is the pool under whose name the server itself answers, as docs/protocol.md, section 7, says.
const controlPool = "ringmaster"

// control asks the server itself.
func (x *exchange) control(action string) (ipc.Body, *ipc.Error) {
	reply, e := x.one(x.r.Context(), x.place, &ipc.Request{Pool: controlPool, Action: action})
	if e != nil {
		return nil, e
	}
	return reply.Body, nil
}

// controlled asks the server itself about a pool, or about all of them for "", and decodes what it says. The request may hold its place already.
func (x *exchange) controlled(ctx context.Context, action, pool string, to any) *ipc.Error {
	req := &ipc.Request{Pool: controlPool, Action: action}
	if pool != "" {
		body, err := ipc.Marshal(map[string]string{"pool": pool})
		if err != nil {
			return ipc.AsError(err)
		}
		req.Body = body
	}
	reply, e := x.one(ctx, x.place, req)
	if e != nil {
		return e
	}
	return ipc.AsError(reply.Body.Decode(to))
}

// healthz says that the server is up, for it answers.
func (w *web) healthz(rw http.ResponseWriter, r *http.Request) {
	w.exchange(rw, r).json(http.StatusOK, map[string]bool{"ok": true})
}

// readyz answers 200 if a frame made the round trip through a ready worker of every pool, else 503; the body says which pools are ready, and why others are not.
func (w *web) readyz(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	if _, e := x.receive(); e != nil {
		x.notReady(e)
		return
	}
	body, e := x.control("health")
	if e != nil {
		x.notReady(e)
		return
	}
	var health struct {
		Pools []struct {
			OK bool `msgpack:"ok"`
		} `msgpack:"pools"`
	}
	if err := body.Decode(&health); err != nil {
		x.notReady(ipc.AsError(err))
		return
	}
	document, err := jsonbody.Encode(body)
	if err != nil {
		x.notReady(ipc.AsError(err))
		return
	}
	status := http.StatusOK
	for _, p := range health.Pools {
		if !p.OK {
			status = http.StatusServiceUnavailable
		}
	}
	x.json(status, document)
}

func (x *exchange) notReady(e *ipc.Error) {
	retryAfter(x.w.Header(), e)
	x.json(httpStatus(e), errorDocument(e))
}
