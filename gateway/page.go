package gateway

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A browser on this machine reaches a TCP port for any page that it shows: by a name that the page's owner has made point to 127.0.0.1 (DNS rebinding), or by a request to another origin. Neither brings a
// token, but what it is refused for must not depend on that.

// page refuses what a page of the web may have sent by TCP, and reports whether it has answered. Pages of Config.Origins may ask.
func (w *web) page(rw http.ResponseWriter, r *http.Request) (answered bool) {
	origin := r.Header.Get("Origin")
	if e := foreignPage(r.Host, origin, w.srv.cfg.Origins); e != nil {
		x := w.exchange(rw, r)
		w.srv.refused.log(x.conn.conn.peer, e)
		x.refuse(e)
		return true
	}
	if origin == "" {
		return false
	}
	h := rw.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "*")
	h.Add("Vary", "Origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	rw.WriteHeader(http.StatusNoContent)
	return true
}

// foreignPage is the policy: why a request with this Host and Origin is not to be answered by TCP; nil: it may be.
func foreignPage(host, origin string, allowed []string) *ipc.Error {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	switch strings.Trim(name, "[]") {
	case "localhost", "127.0.0.1", "::1":
	default:
		return ipc.Errorf(ipc.PermissionDenied, "denied", "the Host %q is not this machine's own; ask localhost, 127.0.0.1 or [::1]", host)
	}
	if origin != "" && !slices.Contains(allowed, origin) {
		return ipc.Errorf(ipc.PermissionDenied, "denied", "a page of %q may not ask here; `listen_origins` would allow it", origin)
	}
	return nil
}
