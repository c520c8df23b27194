package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	lineBuffer   = 16 << 10     // of a stream of lines
	cancelMethod = "rpc.cancel" // from a client: {id}
	chunkMethod  = "rpc.chunk"  // to a client: {id, chunk}
	recordMark   = "\x1e"       // before each text of application/json-seq
)

// linesOf reports whether a content type is that of many calls, one on each line, and what stands before each.
func linesOf(contentType string) (mark string, lines bool) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", false
	}
	switch kind {
	case "application/json-seq":
		return recordMark, true
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return "", true
	}
	return "", false
}

// rpcLines is a stream of JSON-RPC: calls come as lines, and responses go back as lines as soon as they are there.
type rpcLines struct {
	*multiplex
	in   *bufio.Reader
	mark string
}

// rpcLines answers POST /rpc with calls on lines.
func (x *exchange) rpcLines(mark string) {
	if x.draining() {
		retryAfter(x.w.Header(), errDraining)
		x.rpcAnswer(httpStatus(errDraining), rpcCall{}.response(nil, rpcErrorOf(errDraining)))
		return
	}
	if coding := x.r.Header.Get("Content-Encoding"); !plain(coding) {
		e := ipc.Errorf(ipc.InvalidArgument, "unsupported_encoding", "the encoding is %q; a stream of lines comes as it is", outline([]byte(coding)))
		x.rpcAnswer(httpStatus(e), rpcCall{}.response(nil, rpcErrorOf(e)))
		return
	}
	_ = x.out.EnableFullDuplex() // HTTP/2 has it anyway
	x.w.Header().Set("Content-Type", x.r.Header.Get("Content-Type"))
	x.w.WriteHeader(http.StatusOK)
	_ = x.out.Flush() // the client waits for it before it sends more; an error is one that the first line meets, too
	defer x.untilLeaving()()
	l := &rpcLines{multiplex: x.multiplex(x.r.Context()), in: bufio.NewReaderSize(x.r.Body, lineBuffer), mark: mark}
	l.finish(l.serve())
}

// serve takes calls until the client has no more, and returns nil, or why what is open is to be cancelled.
func (l *rpcLines) serve() error {
	for {
		line, place, e := l.next()
		switch {
		case e == errNoLine:
			return nil
		case e != nil && place == nil: // no more can be read
			if l.x.draining() {
				return nil
			}
			return e
		case e != nil:
			place.Leave()
			l.send(rpcCall{}.response(nil, rpcErrorOf(e)))
			continue
		}
		l.take(line, place)
	}
}

var errNoLine = ipc.Errorf(ipc.Cancelled, "disconnected", "there are no more lines")

// next reads a line that is not blank, and the place it holds. One that is refused is read to its end, without being kept; without a place nothing more can be read.
func (l *rpcLines) next() (line []byte, place *ipc.Place, refused *ipc.Error) {
	limit := l.x.web.srv.cfg.MaxMessage
	_ = l.x.out.SetReadDeadline(time.Time{}) // the next call may be long in coming
	if l.x.draining() {
		return nil, nil, errDraining
	}
	for place == nil {
		b, err := l.in.Peek(1)
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, errNoLine
		case err != nil:
			return nil, nil, l.x.broken(err)
		case b[0] <= ' ': // white space, or a record's mark
			_, _ = l.in.Discard(1) // it is there
			continue
		}
		if place, refused = l.x.enter(0); refused != nil {
			place = &ipc.Place{} // of nobody
		}
	}
	for {
		_ = l.x.out.SetReadDeadline(time.Now().Add(l.x.web.srv.cfg.ReadTimeout)) // fails only where the read will, too
		piece, err := l.in.ReadSlice('\n')
		if refused == nil && len(line)+len(piece) > limit {
			refused = tooLarge(int64(limit))
		}
		if refused == nil {
			refused = place.Add(jsonFactor * int64(len(piece)))
		}
		if refused != nil {
			line = nil
		} else {
			line = append(line, piece...)
		}
		switch {
		case err == nil, errors.Is(err, io.EOF):
			return line, place, refused
		case !errors.Is(err, bufio.ErrBufferFull):
			place.Leave()
			return nil, nil, l.x.broken(err)
		}
	}
}

// take begins a call, which holds a place, or cancels one.
func (l *rpcLines) take(line []byte, place *ipc.Place) {
	var invalid *rpcError
	switch {
	case !utf8.Valid(line):
		invalid = parseError(errors.New("the line is not UTF-8"))
	case !json.Valid(line):
		invalid = parseError(errors.New("the line is not one JSON text"))
	case bytes.HasPrefix(line, []byte("[")):
		invalid = invalidRequest("a batch has no place in a stream, whose calls run side by side; send each on a line of its own")
	}
	if invalid != nil {
		place.Leave()
		l.send(rpcCall{}.response(nil, invalid))
		return
	}
	call := parseCall(line)
	if call.method == cancelMethod && call.id == nil {
		place.Leave()
		var which struct {
			ID json.RawMessage `json:"id"`
		}
		if json.Unmarshal(call.params, &which) == nil && which.ID != nil { // else it names none
			l.cancel(string(oneLine(which.ID)))
		}
		return
	}
	if call.invalid != nil {
		place.Leave()
		l.send(call.response(nil, call.invalid))
		return
	}
	name := string(call.id)
	if e := l.start(name, func(ctx context.Context) {
		defer place.Leave()
		answer := l.answer(ctx, place, call)
		l.over(name)
		if call.id != nil {
			l.send(answer)
		}
	}); e != nil {
		place.Leave()
		if call.id != nil {
			l.send(call.response(nil, rpcErrorOf(e)))
		}
	}
}

// answer makes a call, sends its chunks, and returns its response.
func (l *rpcLines) answer(ctx context.Context, place *ipc.Place, call rpcCall) []byte {
	req, e := call.request()
	if e != nil {
		return call.response(nil, rpcErrorOf(e))
	}
	replies, ctx, done, err := l.x.call(ctx, place, req)
	defer done()
	for err == nil {
		var reply *ipc.Reply
		if reply, err = replies.Recv(ctx); err != nil {
			break
		}
		if reply.End {
			result, e := l.x.encode(place, reply)
			if e != nil {
				return call.response(nil, rpcErrorOf(e))
			}
			return call.response(result, nil)
		}
		if call.id != nil && !l.chunk(call, reply) {
			replies.Cancel(errNotTaken.Reason)
			err = errNotTaken
		}
	}
	return call.response(nil, rpcErrorOf(ipc.AsError(err)))
}

// chunk sends a reply that is not the last.
func (l *rpcLines) chunk(call rpcCall, reply *ipc.Reply) bool {
	chunk, err := jsonbody.EncodeMessage(reply.Body, reply.Tensors)
	if err != nil {
		return false
	}
	line := append([]byte(`{"jsonrpc":"2.0","method":"`+chunkMethod+`","params":{"id":`), call.id...)
	line = append(append(append(line, `,"chunk":`...), chunk...), "}}"...)
	return l.send(line)
}

// send sends a line.
func (l *rpcLines) send(line []byte) bool {
	b := make([]byte, 0, len(line)+len(l.mark)+1)
	b = append(append(append(b, l.mark...), line...), '\n')
	return l.write(func() bool {
		taken := l.x.write(b) && l.x.out.Flush() == nil
		_ = l.x.out.SetWriteDeadline(time.Time{}) // the next one may be long in coming; HTTP/2 would reset the stream
		return taken
	})
}
