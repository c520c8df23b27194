package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	w3c "github.com/ringmasterd/ringmaster/internal/traceparent"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	// jsonFactor is how much memory a body of JSON takes, for each of its bytes: as it came, its parts, and the MessagePack that it becomes, whose buffer doubles as it grows.
	jsonFactor = 4
	// webCredit is how many replies may wait for a client of HTTP; the client's share of the memory bounds their bytes.
	webCredit = 16
	// readPiece is how many bytes of a body a client has to send in the read timeout.
	readPiece = 64 << 10
)

// exchange is one HTTP request on its way to the call chain, and its answers on their way back: what the adapters of HTTP share. It belongs to the request's handler.
type exchange struct {
	web   *web
	conn  *webConn
	w     http.ResponseWriter
	r     *http.Request
	out   *http.ResponseController
	place *ipc.Place // what it holds; nil before receive
}

// exchange begins one; close ends it.
func (w *web) exchange(rw http.ResponseWriter, r *http.Request) *exchange {
	return &exchange{web: w, conn: r.Context().Value(webConnKey{}).(*webConn), w: rw, r: r, out: http.NewResponseController(rw)}
}

func (x *exchange) close() {
	if x.place != nil {
		x.place.Leave()
	}
}

// draining reports whether the client has been told to go.
func (x *exchange) draining() bool {
	c := x.conn.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// receive takes the request in: a place for it, and its body, UTF-8. It comes first.
func (x *exchange) receive() ([]byte, *ipc.Error) {
	body, e := x.take(jsonFactor)
	if e == nil && !utf8.Valid(body) {
		e = ipc.Errorf(ipc.InvalidArgument, "bad_body", "the body is not UTF-8, as JSON is")
	}
	return body, e
}

// take takes the request in: a place for it, and its body, without its Content-Encoding. The client is charged factor times the bytes, before they are read.
func (x *exchange) take(factor int64) ([]byte, *ipc.Error) {
	if x.draining() {
		return nil, errDraining
	}
	_ = x.out.SetReadDeadline(time.Now().Add(x.web.srv.cfg.ReadTimeout)) // also for what is read of the body of a request that is refused
	size, limit := x.r.ContentLength, int64(x.web.srv.cfg.MaxMessage)
	if size > limit {
		return nil, tooLarge(limit)
	}
	coding := x.r.Header.Get("Content-Encoding")
	if !plain(coding) {
		size = -1 // that of what it contains will be seen
	}
	var e *ipc.Error
	if x.place, e = x.enter(factor * max(0, size)); e != nil {
		return nil, e
	}
	body, e := x.read(coding, size, limit, factor)
	if e != nil {
		x.w.Header().Set("Connection", "close") // or the server would wait for the rest, which we do not want
		_ = x.out.SetReadDeadline(time.Now())
		return nil, e
	}
	_ = x.out.SetReadDeadline(time.Time{})
	return body, nil
}

// enter takes a place, with room for so many bytes.
func (x *exchange) enter(size int64) (*ipc.Place, *ipc.Error) {
	place, e := ipc.Enter(x.conn.conn.client.account, size)
	if e != nil {
		x.web.srv.refused.log(x.conn.conn.peer, e)
	}
	return place, e
}

func tooLarge(limit int64) *ipc.Error {
	return ipc.Errorf(ipc.InvalidArgument, "too_large", "the body is larger than %d bytes, the most a message may have; send less, or raise `max_message`", limit)
}

// read reads a body of size bytes, or of a size that will be seen (-1), piece by piece, so that a client that stops in its midst is noticed.
func (x *exchange) read(coding string, size, limit, factor int64) ([]byte, *ipc.Error) {
	in, stop, e := decompress(coding, x.r.Body, x.place, limit)
	if e != nil {
		return nil, e
	}
	defer stop()
	var body []byte
	if size > 0 {
		body = make([]byte, 0, size)
	}
	for {
		if free := cap(body) - len(body); free < readPiece && size < 0 {
			more := max(readPiece, len(body))
			if e := x.place.Add(factor * int64(more)); e != nil {
				return nil, e
			}
			grown := make([]byte, len(body), cap(body)+more)
			copy(grown, body)
			body = grown
		} else if free == 0 {
			return body, nil
		}
		n, err := x.piece(in, body[len(body):min(cap(body), len(body)+readPiece)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF), size < 0 && errors.Is(err, io.ErrUnexpectedEOF):
			return body, nil
		case err != nil:
			return nil, x.broken(err)
		}
	}
}

// piece fills p with what the client has to send in the read timeout.
func (x *exchange) piece(in io.Reader, p []byte) (int, error) {
	_ = x.out.SetReadDeadline(time.Now().Add(x.web.srv.cfg.ReadTimeout)) // fails only where the read will, too
	return io.ReadFull(in, p)
}

// broken says what is wrong with a body that could not be read.
func (x *exchange) broken(err error) *ipc.Error {
	var e *ipc.Error
	switch {
	case errors.As(err, &e):
		return e
	case late(err):
		return ipc.Errorf(ipc.DeadlineExceeded, "deadline", "the body did not go on for %v; send it without a pause", x.web.srv.cfg.ReadTimeout)
	}
	return ipc.Errorf(ipc.Cancelled, "disconnected", "the body did not come whole: %v", err)
}

// timeout is what the client says of it in a header, 0 if nothing.
func (x *exchange) timeout() (time.Duration, *ipc.Error) {
	text := x.r.Header.Get("X-Ringmaster-Timeout")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if ms, numeric := strconv.ParseUint(text, 10, 32); numeric == nil {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || d <= 0 {
		return 0, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the header X-Ringmaster-Timeout is %q; it must be milliseconds, such as 1500, or a duration, such as 1.5s", text)
	}
	return d, nil
}

// call sends a request, which holds a place, through the chain, with what the headers say; what it says itself comes first. The replies are to be taken to their end, or cancelled, before done is called.
func (x *exchange) call(ctx context.Context, place *ipc.Place, req *ipc.Request) (replies ipc.Replies, _ context.Context, done func(), err error) {
	done = func() {}
	limit, e := x.timeout()
	if e != nil {
		return nil, ctx, done, e
	}
	if deadline, ok := ctx.Deadline(); ok {
		limit = sooner(limit, max(time.Until(deadline), 1))
	}
	if req.Timeout = sooner(req.Timeout, limit); req.Timeout > 0 {
		ctx, done = context.WithTimeout(ctx, req.Timeout)
	}
	req.Headers = both(req.Headers, toldBy(x.r.Header))
	x.traced(req)
	if a := x.r.Header.Get("Authorization"); a != "" && x.web.srv.cfg.Gate != nil { // who would else be the one to take it out again
		if req.Headers == nil {
			req.Headers = map[string]string{}
		}
		req.Headers[authorizationHeader] = a
	}
	req.Client, req.Protocol, req.Credit = x.conn.conn.client.id, x.protocol(), webCredit
	place.Hold(req)
	replies, err = x.web.srv.handler(ctx, req)
	if err != nil {
		err = ipc.AsError(err)
	}
	return replies, ctx, done, err
}

// sooner is the smaller of two timeouts, of which 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// both are two lots of headers in one; own ones come first.
func both(own, other map[string]string) map[string]string {
	if len(own) == 0 {
		return other
	}
	for name, value := range other {
		if _, there := own[name]; !there {
			own[name] = value
		}
	}
	return own
}

// one makes a request that is to have one reply.
func (x *exchange) one(ctx context.Context, place *ipc.Place, req *ipc.Request) (*ipc.Reply, *ipc.Error) {
	replies, ctx, done, err := x.call(ctx, place, req)
	defer done()
	if err != nil {
		return nil, ipc.AsError(err)
	}
	reply, err := replies.Recv(ctx)
	switch {
	case err != nil:
		return nil, ipc.AsError(err)
	case !reply.End:
		e := ipc.Errorf(ipc.Unimplemented, "stream", "action %q of pool %q answers in chunks; ask for a stream, by JSON-RPC with Accept: text/event-stream, by gRPC with Stream or ModelStreamInfer", req.Action, req.Pool)
		replies.Cancel(e.Reason)
		return nil, e
	}
	return reply, nil
}

// encode turns a reply into JSON, which its client pays for.
func (x *exchange) encode(place *ipc.Place, reply *ipc.Reply) (json.RawMessage, *ipc.Error) {
	size := jsonFactor * len(reply.Body)
	for i := range reply.Tensors {
		size += 2 * len(reply.Tensors[i].Data)
	}
	if e := place.Add(int64(size)); e != nil {
		return nil, e
	}
	b, err := jsonbody.EncodeMessage(reply.Body, reply.Tensors)
	if err != nil {
		return nil, ipc.AsError(err)
	}
	return b, nil
}

// headerPrefix is what names of the call chain's headers begin with in HTTP, where others have theirs.
const headerPrefix = "X-Ringmaster-"

// toldBy returns what a client tells the call chain: X-Ringmaster-Session becomes session. nil: nothing.
func toldBy(h http.Header) map[string]string {
	var told map[string]string
	for name, values := range h {
		if rest, ours := strings.CutPrefix(name, headerPrefix); ours && rest != "" && rest != "Timeout" && len(values) > 0 {
			if told == nil {
				told = map[string]string{}
			}
			told[strings.ToLower(rest)] = values[0]
		}
	}
	return told
}

// tell passes on what the call chain tells the client with a reply. It comes before the status; later ones are not heard. Names that are none in HTTP are left out, by the server.
func (x *exchange) tell(reply *ipc.Reply) {
	for name, value := range reply.Headers {
		x.w.Header().Set(headerPrefix+name, value)
	}
}

// traced takes over of which trace a request is part, as the W3C's headers say: https://www.w3.org/TR/trace-context/. A request that has been told so already stays what it is.
func (x *exchange) traced(req *ipc.Request) {
	if req.TraceID == "" {
		req.TraceID = traceparent(x.r.Header.Get("Traceparent"))
	}
	if state := strings.Join(x.r.Header.Values("Tracestate"), ","); state != "" && req.TraceID != "" {
		if req.Headers == nil {
			req.Headers = map[string]string{}
		}
		req.Headers["tracestate"] = state
	}
}

// traceparent returns a W3C traceparent if it is one, else "", as that standard wants it.
func traceparent(s string) string {
	if _, ok := w3c.Parse(s); !ok {
		return ""
	}
	return s
}

// protocol names what the request came by.
func (x *exchange) protocol() string {
	path := x.r.URL.Path
	switch {
	case !strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/grpc"):
		return protocolOf(path)
	case strings.HasPrefix(path, "/inference."):
		return "oip-grpc"
	}
	return "grpc"
}

// json answers with a status and a document.
func (x *exchange) json(status int, document any) {
	b, err := json.Marshal(document)
	if err != nil {
		status, b = http.StatusInternalServerError, errorDocument(ipc.Errorf(ipc.Internal, "internal", "the answer is nothing that JSON has: %v", err))
	}
	x.whole(status, "application/json", append(b, '\n'))
}

// whole answers with all there is to say, compressed if the client takes that and it is worth it.
func (x *exchange) whole(status int, kind string, parts ...[]byte) {
	size := 0
	for _, b := range parts {
		size += len(b)
	}
	h := x.w.Header()
	h.Set("Content-Type", kind)
	h.Add("Vary", "Accept-Encoding")
	coding := ""
	if size >= worthCompressing {
		coding = accepted(x.r.Header.Values("Accept-Encoding"))
	}
	if coding != "" && x.compressed(status, coding, parts) {
		return
	}
	h.Set("Content-Length", strconv.Itoa(size))
	x.w.WriteHeader(status)
	for _, b := range parts {
		if !x.write(b) {
			return
		}
	}
}

// write sends bytes, the last ones unless event is who sends them; a client that does not take them for the stall timeout has its request ended. It reports whether that went well.
func (x *exchange) write(b []byte) bool {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		_ = x.out.SetWriteDeadline(time.Now().Add(x.web.srv.cfg.StallTimeout)) // fails only where the write will, too
		if _, err := x.w.Write(piece); err != nil {
			return false
		}
		b = b[len(piece):]
	}
	return true
}

// stream begins an answer of server-sent events.
func (x *exchange) stream() {
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.Header().Set("Cache-Control", "no-cache")
	x.w.Header().Set("X-Accel-Buffering", "no") // or a proxy may collect them
	x.w.WriteHeader(http.StatusOK)
	_ = x.out.Flush() // the first event may be long in coming; an error is one that it meets, too
}

// event sends one event of a name, or without one, whose data has no line breaks. It reports whether that went well.
func (x *exchange) event(name string, data []byte) bool {
	b := make([]byte, 0, len(name)+len(data)+16)
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	b = append(append(append(b, "data: "...), data...), "\n\n"...)
	taken := x.write(b) && x.out.Flush() == nil
	_ = x.out.SetWriteDeadline(time.Time{}) // the next one may be long in coming; HTTP/2 would reset the stream
	return taken
}

// httpStatus is an error's status.
func httpStatus(e *ipc.Error) int {
	switch {
	case e.Reason == "too_large":
		return http.StatusRequestEntityTooLarge
	case e.Reason == "unsupported_encoding":
		return http.StatusUnsupportedMediaType
	case e.Code == ipc.Unimplemented && e.Reason == "wrong_method":
		return http.StatusMethodNotAllowed
	case e.Code == ipc.PermissionDenied && e.Reason == "unauthenticated":
		return http.StatusUnauthorized
	}
	switch e.Code {
	case ipc.InvalidArgument:
		return http.StatusBadRequest
	case ipc.NotFound:
		return http.StatusNotFound
	case ipc.PermissionDenied:
		return http.StatusForbidden
	case ipc.ResourceExhausted:
		return http.StatusTooManyRequests
	case ipc.Unavailable:
		return http.StatusServiceUnavailable
	case ipc.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case ipc.Cancelled:
		return 499 // nobody reads it; nginx's number for a client that has gone
	case ipc.Aborted:
		return http.StatusBadGateway
	case ipc.Unimplemented:
		return http.StatusNotImplemented
	default: // INTERNAL, DATA_LOSS
		return http.StatusInternalServerError
	}
}

// retryAfter sets the headers that say when to try again, in whole seconds and, as some clients know it, in milliseconds, or that a token is wanted.
func retryAfter(h http.Header, e *ipc.Error) {
	if httpStatus(e) == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="ringmaster"`)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatFloat(math.Ceil(e.RetryAfter.Seconds()), 'f', 0, 64))
		h.Set("Retry-After-Ms", fmt.Sprint(e.RetryAfter.Milliseconds()))
	}
}

// refuseHTTP tells a client that may not stay why, once it has sent a request of HTTP/1.1. One of HTTP/2 finds the connection closed.
func refuseHTTP(raw net.Conn, why *ipc.Error) {
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(raw, maxHeader)))
	if err != nil || r.ProtoMajor != 1 {
		return
	}
	h := http.Header{"Content-Type": {"application/json"}}
	retryAfter(h, why)
	body := errorDocument(why)
	answer := http.Response{StatusCode: httpStatus(why), ProtoMajor: 1, ProtoMinor: 1, Header: h, Close: true, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
	_ = raw.SetWriteDeadline(time.Now().Add(refuseTimeout)) // fails only where the write will, too
	_ = answer.Write(raw)
}

// errorDocument is an error where no protocol has a form of its own for it.
func errorDocument(e *ipc.Error) json.RawMessage {
	b, err := json.Marshal(map[string]any{"error": map[string]any{"code": e.Code, "reason": e.Reason, "message": e.Message}})
	if err != nil {
		return json.RawMessage(`{}`)
	}
	return b
}
