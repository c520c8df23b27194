package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// routes are the paths of HTTP and who answers at them. What no path or method answers is told so in the form of the protocol that the path belongs to, not in net/http's plain text.
type routes struct {
	mux     *http.ServeMux
	unknown http.HandlerFunc
	paths   []route // immutable once newWeb has returned: in the order in which they were added
}

// route is a path, as [http.ServeMux] has it, and the methods that it takes.
type route struct {
	path    string
	methods []string
}

// newRoutes says which adapter answers what.
func newRoutes(w *web) *routes {
	rs := &routes{mux: http.NewServeMux(), unknown: w.unknownPath}
	rs.add("GET", "/{$}", w.statusPage)
	rs.add("GET", "/healthz", w.healthz)
	rs.add("GET", "/readyz", w.readyz)
	rs.add("GET", "/metrics", w.metrics)
	rs.add("POST", "/rpc", w.rpc)
	rs.add("POST", "/v1/chat/completions", w.openai(chatForm))
	rs.add("POST", "/v1/completions", w.openai(completeForm))
	rs.add("POST", "/v1/embeddings", w.embeddings)
	rs.add("GET", "/v1/models", w.models)
	rs.add("GET", "/v1/models/{model}", w.models)
	w.oipRoutes(rs)
	for _, r := range rs.paths {
		rs.mux.HandleFunc(r.path, w.wrongMethod(r))
	}
	rs.mux.HandleFunc("/", rs.unknown)
	return rs
}

// add has a function answer a method at a path.
func (rs *routes) add(method, path string, answer http.HandlerFunc) {
	rs.mux.HandleFunc(method+" "+path, answer)
	i := slices.IndexFunc(rs.paths, func(r route) bool { return r.path == path })
	if i < 0 {
		i, rs.paths = len(rs.paths), append(rs.paths, route{path: path})
	}
	rs.paths[i].methods = append(rs.paths[i].methods, method)
	if method == http.MethodGet { // which the mux takes for both
		rs.paths[i].methods = append(rs.paths[i].methods, http.MethodHead)
	}
}

// of lists the paths of a protocol.
func (rs *routes) of(protocol string) string {
	var all []string
	for _, r := range rs.paths {
		if protocolOf(r.path) == protocol {
			all = append(all, r.methods[0]+" "+strings.TrimSuffix(r.path, "{$}"))
		}
	}
	return strings.Join(all, ", ")
}

// ServeHTTP implements [http.Handler].
func (rs *routes) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect { // asks for no path, and the mux says by itself that this is wrong
		rs.unknown(rw, r)
		return
	}
	rs.mux.ServeHTTP(rw, r)
}

// protocolOf names the protocol that a path of HTTP belongs to.
func protocolOf(path string) string {
	switch {
	case path == "/rpc":
		return "jsonrpc"
	case strings.HasPrefix(path, "/v1/"):
		return "openai"
	case path == "/v2" || strings.HasPrefix(path, "/v2/"):
		return "oip"
	}
	return "http"
}

// unknownPath answers where there is nothing.
func (w *web) unknownPath(rw http.ResponseWriter, r *http.Request) {
	there := w.routes.of(protocolOf(r.URL.Path))
	if protocolOf(r.URL.Path) == "http" {
		there += ", POST /rpc, OpenAI's below /v1/, the Open Inference Protocol's below /v2/"
	}
	w.nowhere(rw, r, ipc.Errorf(ipc.NotFound, "unknown_path", "there is nothing at %s; there are %s", outline([]byte(cmp.Or(r.URL.Path, r.RequestURI))), there))
}

// wrongMethod answers a request by a method that its path does not take.
func (w *web) wrongMethod(at route) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Allow", strings.Join(at.methods, ", "))
		w.nowhere(rw, r, ipc.Errorf(ipc.Unimplemented, "wrong_method", "%s takes %s, not %s", outline([]byte(r.URL.Path)), strings.Join(at.methods, " and "), outline([]byte(r.Method))))
	}
}

// nowhere answers a request that nobody takes. Its body is not read, but by the server, a little and for a while, so that the connection can go on.
func (w *web) nowhere(rw http.ResponseWriter, r *http.Request, e *ipc.Error) {
	x := w.exchange(rw, r)
	_ = x.out.SetReadDeadline(time.Now().Add(w.srv.cfg.ReadTimeout)) // fails only where the read will, too
	x.fail(e)
}
