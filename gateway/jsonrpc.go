package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	maxBatch      = 256 // calls in a batch
	batchParallel = 16  // of those, under way at a time
)

// rpcCode are JSON-RPC's numbers. Its own have their meaning; each of the others is -32000 less gRPC's number for the code.
var rpcCode = map[ipc.Code]int{
	ipc.InvalidArgument: -32602, ipc.NotFound: -32601, ipc.Internal: -32603,
	ipc.Cancelled: -32001, ipc.DeadlineExceeded: -32004, ipc.PermissionDenied: -32007, ipc.ResourceExhausted: -32008,
	ipc.Aborted: -32010, ipc.Unimplemented: -32012, ipc.Unavailable: -32014, ipc.DataLoss: -32015,
}

// rpcError is an error as JSON-RPC has it.
type rpcError struct {
	Code    int          `json:"code"`
	Message string       `json:"message"`
	Data    *rpcErrorTip `json:"data,omitempty"`
}

type rpcErrorTip struct {
	Code         ipc.Code          `json:"code"`
	Reason       string            `json:"reason"`
	RetryAfterMS int64             `json:"retry_after_ms,omitempty"`
	Details      map[string]string `json:"details,omitempty"`
}

func rpcErrorOf(e *ipc.Error) *rpcError {
	code, known := rpcCode[e.Code]
	if !known { // a worker may send any
		code = -32603
	}
	return &rpcError{Code: code, Message: e.Message, Data: &rpcErrorTip{e.Code, e.Reason, e.RetryAfter.Milliseconds(), e.Details}}
}

func parseError(err error) *rpcError {
	return &rpcError{Code: -32700, Message: fmt.Sprintf("Parse error: %v", err)}
}

func invalidRequest(format string, args ...any) *rpcError {
	return &rpcError{Code: -32600, Message: "Invalid Request: " + fmt.Sprintf(format, args...)}
}

// rpcCall is one call: an object that has come.
type rpcCall struct {
	id      json.RawMessage // nil: a notification, which gets no answer
	method  string
	params  json.RawMessage
	invalid *rpcError // it is no call; nil: it is
}

// parseCall reads a call. Preconditions: it is JSON.
func parseCall(object []byte) (c rpcCall) {
	version := ""
	err := jsonbody.Members(object, func(key string, value json.RawMessage) error {
		switch key {
		case "jsonrpc":
			_ = json.Unmarshal(value, &version) // another type is as wrong as another version
		case "method":
			if err := json.Unmarshal(value, &c.method); err != nil || c.method == "" {
				c.invalid = invalidRequest("method is %s; it must be a string, as in pool.action", outline(value))
			}
		case "params":
			c.params = value
		case "id":
			c.id = oneLine(value)
		}
		return nil
	})
	switch {
	case err != nil:
		c.invalid = invalidRequest("a call is an object, %v", err)
	case c.invalid != nil:
	case version != "2.0":
		c.invalid = invalidRequest(`there is no "jsonrpc": "2.0"`)
	case c.method == "":
		c.invalid = invalidRequest("there is no method; it names pool.action")
	}
	if c.invalid != nil && c.id == nil {
		c.id = json.RawMessage("null") // so that it is told
	}
	return c
}

// oneLine is JSON without white space, as what is sent back in lines and events must be.
func oneLine(value json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, value) != nil { // not JSON: it does not happen
		return json.RawMessage("null")
	}
	return b.Bytes()
}

// outline is a value as a message can show it.
func outline(value []byte) string {
	if len(value) > 40 {
		return strings.ToValidUTF8(string(value[:40]), "") + "…"
	}
	return string(value)
}

// request makes the request of a call.
func (c rpcCall) request() (*ipc.Request, *ipc.Error) {
	dot := strings.LastIndexByte(c.method, '.')
	if dot <= 0 || dot == len(c.method)-1 {
		return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "the method is %q; it must be pool.action, as in smollm2.chat", c.method)
	}
	req := &ipc.Request{Pool: c.method[:dot], Action: c.method[dot+1:]}
	if c.params == nil {
		return req, nil
	}
	var err error
	if req.Body, req.Tensors, err = jsonbody.DecodeMessage(c.params); err != nil {
		var e *ipc.Error
		if errors.As(err, &e) {
			return nil, e
		}
		return nil, ipc.Errorf(ipc.InvalidArgument, "bad_body", "params: %v", err)
	}
	return req, nil
}

// response is what a call's client gets: result, or the error.
func (c rpcCall) response(result json.RawMessage, e *rpcError) []byte {
	document := []byte(`{"jsonrpc":"2.0",`)
	if e != nil {
		b, err := json.Marshal(e)
		if err != nil { // of strings and numbers: it does not happen
			b = []byte(`{"code":-32603,"message":"internal"}`)
		}
		document = append(append(document, `"error":`...), b...)
	} else {
		document = append(append(document, `"result":`...), result...)
	}
	id := c.id
	if id == nil {
		id = json.RawMessage("null")
	}
	return append(append(append(document, `,"id":`...), id...), '}')
}

// rpc answers POST /rpc; docs/protocols.md has the tables.
func (w *web) rpc(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	if mark, lines := linesOf(r.Header.Get("Content-Type")); lines {
		x.rpcLines(mark)
		return
	}
	body, e := x.receive()
	var valid json.RawMessage
	switch {
	case e != nil && e.Reason == "bad_body":
		x.rpcAnswer(http.StatusOK, rpcCall{}.response(nil, parseError(e)))
		return
	case e != nil:
		retryAfter(rw.Header(), e)
		x.rpcAnswer(httpStatus(e), rpcCall{}.response(nil, rpcErrorOf(e)))
		return
	}
	if err := json.Unmarshal(body, &valid); err != nil {
		x.rpcAnswer(http.StatusOK, rpcCall{}.response(nil, parseError(err)))
		return
	}
	streaming := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	switch call := parseCall(body); {
	case bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")):
		x.rpcBatch(body, streaming)
	case streaming && call.id != nil:
		x.rpcStream(call)
	default:
		if answer := x.rpcOne(x.place, call); answer != nil {
			x.rpcAnswer(http.StatusOK, answer)
			return
		}
		rw.WriteHeader(http.StatusNoContent)
	}
}

func (x *exchange) rpcAnswer(status int, document []byte) {
	x.whole(status, "application/json", document)
}

// rpcOne makes one call and returns its response, nil for a notification.
func (x *exchange) rpcOne(place *ipc.Place, call rpcCall) []byte {
	if call.invalid != nil {
		return call.response(nil, call.invalid)
	}
	var result json.RawMessage
	req, e := call.request()
	if e == nil {
		result, e = x.rpcResult(place, req, call.id == nil)
	}
	switch {
	case call.id == nil:
		return nil
	case e != nil:
		return call.response(nil, rpcErrorOf(e))
	}
	return call.response(result, nil)
}

// rpcResult makes a call and returns its reply as JSON. Of a notification it only waits for the end.
func (x *exchange) rpcResult(place *ipc.Place, req *ipc.Request, notification bool) (json.RawMessage, *ipc.Error) {
	if !notification {
		reply, e := x.one(x.r.Context(), place, req)
		if e != nil {
			return nil, e
		}
		if place == x.place { // not in a batch, whose calls share the answer's headers
			x.tell(reply)
		}
		return x.encode(place, reply)
	}
	replies, ctx, done, err := x.call(x.r.Context(), place, req)
	defer done()
	for err == nil {
		var reply *ipc.Reply
		if reply, err = replies.Recv(ctx); err == nil && reply.End {
			break
		}
	}
	return nil, nil
}

// rpcBatch answers a batch: its calls run side by side, a few at a time, and their responses come in one array, in the calls' order.
func (x *exchange) rpcBatch(body []byte, streaming bool) {
	refuse := func(e *rpcError) { x.rpcAnswer(http.StatusOK, rpcCall{}.response(nil, e)) }
	if streaming {
		refuse(invalidRequest("a batch cannot be streamed; send its calls one by one, or without Accept: text/event-stream"))
		return
	}
	var calls []json.RawMessage
	err := jsonbody.Elements(body, func(value json.RawMessage) error {
		if calls = append(calls, value); len(calls) > maxBatch {
			return fmt.Errorf("a batch has at most %d calls", maxBatch)
		}
		return nil
	})
	switch {
	case err != nil:
		refuse(invalidRequest("%v", err))
		return
	case len(calls) == 0:
		refuse(invalidRequest("the batch is empty"))
		return
	}
	answers := make([][]byte, len(calls))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(batchParallel, len(calls)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(calls)); i = next.Add(1) - 1 {
				answers[i] = x.rpcElement(parseCall(calls[i]))
			}
		})
	}
	workers.Wait()
	document := []byte{}
	for _, answer := range answers {
		if answer != nil {
			document = append(append(document, ','), answer...)
		}
	}
	if len(document) == 0 { // notifications
		x.w.WriteHeader(http.StatusNoContent)
		return
	}
	document[0] = '['
	x.rpcAnswer(http.StatusOK, append(document, ']'))
}

// rpcElement makes a call of a batch, which holds a place of its own.
func (x *exchange) rpcElement(call rpcCall) []byte {
	place, e := ipc.Enter(x.conn.conn.client.account, 0)
	if e == nil {
		defer place.Leave()
		answer := x.rpcOne(place, call)
		if e = x.place.Add(2 * int64(len(answer))); e == nil { // it waits for the others
			return answer
		}
	}
	if call.id == nil {
		return nil
	}
	return call.response(nil, rpcErrorOf(e))
}

// rpcStream answers with events: a chunk for each reply but the last, then the response.
func (x *exchange) rpcStream(call rpcCall) {
	var begin sync.Once
	response := func(result json.RawMessage, e *rpcError) {
		begin.Do(x.stream)
		x.event("response", call.response(result, e))
	}
	if call.invalid != nil {
		response(nil, call.invalid)
		return
	}
	result, e := x.rpcChunks(call, &begin)
	if e != nil {
		response(nil, rpcErrorOf(e))
		return
	}
	response(result, nil)
}

// rpcChunks sends the chunks, after begin, and returns what the last reply holds.
func (x *exchange) rpcChunks(call rpcCall, begin *sync.Once) (json.RawMessage, *ipc.Error) {
	req, e := call.request()
	if e != nil {
		return nil, e
	}
	replies, ctx, done, err := x.call(x.r.Context(), x.place, req)
	defer done()
	for err == nil {
		var reply *ipc.Reply
		if reply, err = replies.Recv(ctx); err != nil {
			break
		}
		begin.Do(func() {
			x.tell(reply)
			x.stream()
		})
		if reply.End {
			return x.encode(x.place, reply)
		}
		chunk, encodeErr := jsonbody.EncodeMessage(reply.Body, reply.Tensors)
		if encodeErr != nil || !x.event("chunk", chunk) {
			e = ipc.Errorf(ipc.ResourceExhausted, "slow_reader", "the client did not take a chunk")
			replies.Cancel(e.Reason)
			return nil, e
		}
	}
	return nil, ipc.AsError(err)
}
