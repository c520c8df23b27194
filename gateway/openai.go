package gateway

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// The actions that OpenAI's paths ask of a pool, which is the model.
const (
	chatAction     = "chat"
	completeAction = "complete"
	embedAction    = "embed"
)

// openaiCall is a request in OpenAI's form, read.
type openaiCall struct {
	model    string
	stream   bool
	usage    bool   // the stream is to tell what it took
	base64   bool   // embeddings are to come as base64
	body     []byte // JSON: what the action gets
	maxGiven bool
}

// asked is how a member of the request becomes one of the body.
type asked func(value json.RawMessage) (json.RawMessage, error)

// parseOpenAI reads a request. Members that the protocol has for itself stay here; those named in rewrite are rewritten; all others pass.
func parseOpenAI(object []byte, rewrite map[string]asked) (c openaiCall, _ *ipc.Error) {
	c.body = append(c.body, '{')
	add := func(key string, value json.RawMessage) {
		if len(c.body) > 1 {
			c.body = append(c.body, ',')
		}
		name, _ := json.Marshal(key) // a string always encodes
		c.body = append(append(append(c.body, name...), ':'), value...)
	}
	var limit json.RawMessage // the reply's length under its newer name
	err := jsonbody.Members(object, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "model":
			err = member(key, value, &c.model)
		case "stream":
			err = member(key, value, &c.stream)
		case "stream_options":
			var options struct {
				IncludeUsage bool `json:"include_usage"`
			}
			err = member(key, value, &options)
			c.usage = options.IncludeUsage
		case "encoding_format":
			var format string
			if err = member(key, value, &format); err == nil && format != "" && format != "float" && format != "base64" {
				err = fmt.Errorf("encoding_format is %q; it must be float or base64", format)
			}
			c.base64 = format == "base64"
		case "n", "best_of":
			n := 1
			if err = member(key, value, &n); err == nil && n != 1 {
				err = fmt.Errorf("%s is %d; there is one answer to a request, ask again for another", key, n)
			}
		case "max_completion_tokens":
			limit = value
		default:
			if f := rewrite[key]; f != nil {
				if value, err = f(value); err != nil {
					return err
				}
			}
			c.maxGiven = c.maxGiven || key == "max_tokens"
			add(key, value)
		}
		return err
	})
	switch {
	case err != nil:
		return c, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "%v", err)
	case c.model == "":
		return c, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "there is no model; it names a pool")
	}
	if limit != nil && !c.maxGiven {
		add("max_tokens", limit)
	}
	c.body = append(c.body, '}')
	return c, nil
}

// member reads a member into v, and leaves that alone if the member is null.
func member(key string, value json.RawMessage, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("%s is %s, which is of the wrong type", key, outline(value))
	}
	return nil
}

// plainMessages makes strings of contents that are lists of texts, and calls developers by their older name, system. What it does not know it leaves to the action.
func plainMessages(messages json.RawMessage) (json.RawMessage, error) {
	plain := []byte{'['}
	err := jsonbody.Elements(messages, func(message json.RawMessage) error {
		if len(plain) > 1 {
			plain = append(plain, ',')
		}
		one := []byte{'{'}
		err := jsonbody.Members(message, func(key string, value json.RawMessage) error {
			if len(one) > 1 {
				one = append(one, ',')
			}
			switch {
			case key == "content":
				value = plainContent(value)
			case key == "role" && string(value) == `"developer"`:
				value = json.RawMessage(`"system"`)
			}
			name, _ := json.Marshal(key) // a string always encodes
			one = append(append(append(one, name...), ':'), value...)
			return nil
		})
		if err != nil {
			plain = append(plain, message...)
			return nil //nolint:nilerr // no message: the action says so
		}
		plain = append(append(plain, one...), '}')
		return nil
	})
	if err != nil {
		return messages, nil //nolint:nilerr // no list: the action says so
	}
	return append(plain, ']'), nil
}

func plainContent(content json.RawMessage) json.RawMessage {
	if !bytes.HasPrefix(content, []byte("[")) {
		return content
	}
	var text strings.Builder
	err := jsonbody.Elements(content, func(part json.RawMessage) error {
		var p struct{ Type, Text string }
		if err := json.Unmarshal(part, &p); err != nil {
			return err
		}
		if p.Type != "text" {
			return errors.New("no text")
		}
		text.WriteString(p.Text)
		return nil
	})
	if err != nil {
		return content
	}
	b, _ := json.Marshal(text.String()) // a string always encodes
	return b
}

// onePrompt takes a list of one prompt for that prompt.
func onePrompt(prompt json.RawMessage) (json.RawMessage, error) {
	var one string
	var list []string
	switch {
	case json.Unmarshal(prompt, &one) == nil:
		return prompt, nil
	case json.Unmarshal(prompt, &list) == nil && len(list) == 1:
		b, err := json.Marshal(list[0])
		return b, err
	}
	return nil, fmt.Errorf("prompt is %s; it must be one string", outline(prompt))
}

// manyInputs takes one input for a list of it.
func manyInputs(input json.RawMessage) (json.RawMessage, error) {
	var one string
	var list []string
	switch {
	case json.Unmarshal(input, &one) == nil && string(input) != "null":
		return append(append([]byte{'['}, input...), ']'), nil
	case json.Unmarshal(input, &list) == nil && len(list) > 0:
		return input, nil
	}
	return nil, fmt.Errorf("input is %s; it must be a string, or a list of strings", outline(input))
}

// openaiForm is how completions and chats differ.
type openaiForm struct {
	action, prefix, whole, piece string
	rewrite                      map[string]asked
}

var (
	chatForm     = openaiForm{chatAction, "chatcmpl-", "chat.completion", "chat.completion.chunk", map[string]asked{"messages": plainMessages}}
	completeForm = openaiForm{completeAction, "cmpl-", "text_completion", "text_completion", map[string]asked{"prompt": onePrompt}}
)

// openai answers POST /v1/chat/completions and /v1/completions; docs/protocols.md has the tables.
func (w *web) openai(form openaiForm) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		x := w.exchange(rw, r)
		defer x.close()
		if e := x.generate(form); e != nil {
			x.openaiError(e)
		}
	}
}

// generate answers with what the action says, or returns why there is no answer.
func (x *exchange) generate(form openaiForm) *ipc.Error {
	call, req, e := x.openaiRequest(form.action, form.rewrite)
	if e != nil {
		return e
	}
	replies, ctx, done, err := x.call(x.r.Context(), x.place, req)
	defer done()
	if err != nil {
		return ipc.AsError(err)
	}
	out := &generation{x: x, form: form, call: call, id: form.prefix + rand.Text(), created: time.Now().Unix()}
	for {
		reply, err := replies.Recv(ctx)
		if err == nil {
			if !out.begun {
				x.tell(reply)
			}
			err = out.take(reply)
			if err == nil && !reply.End {
				continue
			}
			if err != nil && !reply.End {
				replies.Cancel(ipc.AsError(err).Reason)
			}
		}
		if err != nil && !out.begun {
			return ipc.AsError(err)
		}
		out.end(ipc.AsError(err))
		return nil
	}
}

// openaiRequest receives a request for an action.
func (x *exchange) openaiRequest(action string, rewrite map[string]asked) (openaiCall, *ipc.Request, *ipc.Error) {
	body, e := x.receive()
	if e != nil {
		return openaiCall{}, nil, e
	}
	call, e := parseOpenAI(body, rewrite)
	if e != nil {
		return call, nil, e
	}
	req := &ipc.Request{Pool: call.model, Action: action}
	var err error
	if req.Body, req.Tensors, err = jsonbody.DecodeMessage(call.body); err != nil {
		return call, nil, ipc.Errorf(ipc.InvalidArgument, "bad_body", "%v", err)
	}
	return call, req, nil
}

// generation is an answer that is being made: whole, or as a stream.
type generation struct {
	x       *exchange
	form    openaiForm
	call    openaiCall
	id      string
	created int64
	begun   bool // the stream

	text   []byte
	tools  json.RawMessage
	finish string
	usage  json.RawMessage
}

// said is a reply of an action in the shape that docs/protocols.md has.
type said struct {
	Text         string          `json:"text"`
	ToolCalls    json.RawMessage `json:"tool_calls"`
	FinishReason string          `json:"finish_reason"`
	Usage        json.RawMessage `json:"usage"`
}

// take takes one reply. An error is an [*ipc.Error].
func (g *generation) take(reply *ipc.Reply) error {
	var s said
	b, err := jsonbody.Encode(reply.Body)
	if err == nil && json.Unmarshal(b, &s.Text) != nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return ipc.Errorf(ipc.Internal, "internal", "pool %s, action %s replied with %s; it must be {text, finish_reason, usage}, see docs/protocols.md", g.call.model, g.form.action, outline(b))
	}
	if string(s.ToolCalls) == "null" {
		s.ToolCalls = nil
	}
	if s.FinishReason != "" {
		g.finish = s.FinishReason
	}
	if s.Usage != nil {
		g.usage = s.Usage
	}
	switch {
	case g.call.stream:
		return g.piece(s, !reply.End)
	case s.ToolCalls != nil:
		g.tools = s.ToolCalls
	}
	if e := g.x.place.Add(int64(3 * len(s.Text))); e != nil {
		return e
	}
	g.text = append(g.text, s.Text...)
	return nil
}

// piece sends a part of a stream. Something is sent at its first reply, so that what fails before that fails with a status.
func (g *generation) piece(s said, more bool) error {
	if !g.begun {
		g.begun = true
		g.x.stream()
		if g.form.action == chatAction && !g.send(g.choice(map[string]any{"role": "assistant", "content": ""}, nil)) {
			return errNotTaken
		}
	}
	if s.Text == "" && s.ToolCalls == nil {
		return nil
	}
	delta := map[string]any{"content": s.Text}
	if s.ToolCalls != nil {
		delta["tool_calls"] = s.ToolCalls
	}
	if !g.send(g.choice(delta, nil)) && more {
		return errNotTaken
	}
	return nil
}

var errNotTaken = ipc.Errorf(ipc.ResourceExhausted, "slow_reader", "the client did not take what was sent to it")

// choice is what a piece of a stream says.
func (g *generation) choice(delta map[string]any, finish any) []any {
	c := map[string]any{"index": 0, "finish_reason": finish, "logprobs": nil}
	if g.form.action == chatAction {
		c["delta"] = delta
	} else {
		text, _ := delta["content"].(string)
		c["text"] = text
	}
	return []any{c}
}

// send sends a piece of a stream, and reports whether that went well.
func (g *generation) send(choices []any) bool {
	return g.document(g.form.piece, choices, nil)
}

func (g *generation) document(object string, choices []any, usage json.RawMessage) bool {
	d := map[string]any{"id": g.id, "object": object, "created": g.created, "model": g.call.model, "choices": choices}
	if usage != nil {
		d["usage"] = usage
	}
	if !g.call.stream {
		g.x.json(http.StatusOK, d)
		return true
	}
	b, err := json.Marshal(d)
	return err == nil && g.x.event("", b)
}

// end ends the answer; e says that it failed in its midst.
func (g *generation) end(e *ipc.Error) {
	if g.finish == "" {
		g.finish = "stop"
	}
	switch {
	case e != nil:
		b, err := json.Marshal(openaiDocument(e))
		if err == nil {
			g.x.event("", b)
		}
	case g.call.stream:
		g.send(g.choice(map[string]any{}, g.finish))
		if g.call.usage && g.usage != nil {
			g.document(g.form.piece, []any{}, g.usage)
		}
		g.x.event("", []byte("[DONE]"))
	default:
		c := map[string]any{"index": 0, "finish_reason": g.finish, "logprobs": nil}
		if g.form.action == chatAction {
			message := map[string]any{"role": "assistant", "content": string(g.text), "refusal": nil}
			if g.tools != nil {
				message["tool_calls"] = g.tools
			}
			c["message"] = message
		} else {
			c["text"] = string(g.text)
		}
		g.document(g.form.whole, []any{c}, g.usage)
	}
}

// embeddings answers POST /v1/embeddings.
func (w *web) embeddings(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	call, req, e := x.openaiRequest(embedAction, map[string]asked{"input": manyInputs})
	if e != nil {
		x.openaiError(e)
		return
	}
	reply, e := x.one(x.r.Context(), x.place, req)
	if e != nil {
		x.openaiError(e)
		return
	}
	x.tell(reply)
	size := jsonFactor * len(reply.Body)
	for i := range reply.Tensors {
		size += 2 * jsonFactor * len(reply.Tensors[i].Data)
	}
	if e := x.place.Add(int64(size)); e != nil {
		x.openaiError(e)
		return
	}
	rows, usage, err := embedded(reply)
	if err != nil {
		x.openaiError(ipc.Errorf(ipc.Internal, "internal", "pool %s, action %s: %v; see docs/protocols.md", req.Pool, req.Action, err))
		return
	}
	list := make([]any, len(rows))
	for i, row := range rows {
		var vector any = row
		if call.base64 {
			vector = floatBytes(row)
		}
		list[i] = map[string]any{"object": "embedding", "index": i, "embedding": vector}
	}
	document := map[string]any{"object": "list", "model": call.model, "data": list}
	if usage != nil {
		document["usage"] = usage
	}
	x.json(http.StatusOK, document)
}

// embedded reads the vectors of a reply: its tensor embeddings, float32 of shape [inputs, dimensions], or the lists of that name in its body.
func embedded(reply *ipc.Reply) (rows [][]float32, usage json.RawMessage, _ error) {
	var body struct {
		Embeddings [][]float32     `json:"embeddings"`
		Usage      json.RawMessage `json:"usage"`
	}
	b, err := jsonbody.Encode(reply.Body)
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("it replied with %s; it must be a tensor embeddings, or {embeddings: [[…]], usage}", outline(b))
	}
	for _, t := range reply.Tensors {
		if t.Name != "embeddings" {
			continue
		}
		if t.DType != "float32" || len(t.Shape) != 2 || t.Shape[1] == 0 {
			return nil, nil, fmt.Errorf("its tensor embeddings is %s of shape %v; it must be float32, of shape [inputs, dimensions]", t.DType, t.Shape)
		}
		for i := range t.Shape[0] {
			row := make([]float32, t.Shape[1])
			for j := range row {
				row[j] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*(i*t.Shape[1]+uint64(j)):]))
			}
			rows = append(rows, row)
		}
		return rows, body.Usage, nil
	}
	return body.Embeddings, body.Usage, nil
}

// floatBytes is a vector as OpenAI's base64 has it; [json.Marshal] makes base64 of it.
func floatBytes(row []float32) []byte {
	b := make([]byte, 0, 4*len(row))
	for _, v := range row {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// models answers GET /v1/models and /v1/models/{model}: the pools and pipelines that have an action which these paths ask for.
func (w *web) models(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	_, e := x.receive()
	var names []string
	if e == nil {
		names, e = x.modelNames()
	}
	if e != nil {
		x.openaiError(e)
		return
	}
	model := func(name string) any {
		return map[string]any{"id": name, "object": "model", "created": w.begun.Unix(), "owned_by": "ringmaster"}
	}
	switch name := r.PathValue("model"); {
	case name == "":
		list := make([]any, len(names))
		for i, name := range names {
			list[i] = model(name)
		}
		x.json(http.StatusOK, map[string]any{"object": "list", "data": list})
	case slices.Contains(names, name):
		x.json(http.StatusOK, model(name))
	default:
		x.openaiError(ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no model %q; there are %s", name, strings.Join(names, ", ")))
	}
}

func (x *exchange) modelNames() ([]string, *ipc.Error) {
	body, e := x.control("pools") // those that the client may use
	if e != nil {
		return nil, e
	}
	var list ipc.PoolList
	if err := body.Decode(&list); err != nil {
		return nil, ipc.AsError(err)
	}
	var names []string
	for _, p := range list.Pools {
		if slices.ContainsFunc(p.Actions, func(a string) bool { return a == chatAction || a == completeAction || a == embedAction }) {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// openaiError answers with an error in OpenAI's form.
func (x *exchange) openaiError(e *ipc.Error) {
	retryAfter(x.w.Header(), e)
	if e.Reason == "poison_request" || e.Reason == "handler" {
		x.w.Header().Set("X-Should-Retry", "false") // OpenAI's own clients heed it; else they would try again at 500 and above
	}
	x.json(httpStatus(e), openaiDocument(e))
}

func openaiDocument(e *ipc.Error) any {
	kind := "server_error"
	switch status := httpStatus(e); {
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status == http.StatusForbidden:
		kind = "permission_error"
	case status < 499:
		kind = "invalid_request_error"
	}
	code, param := e.Reason, any(nil)
	if code == "unknown_pool" {
		code, param = "model_not_found", "model"
	}
	return map[string]any{"error": map[string]any{"message": e.Message, "type": kind, "param": param, "code": code}}
}
