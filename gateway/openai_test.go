package gateway

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// parrot is a backend with a model m, which says what it was asked in two pieces and a last word; fails, which breaks off; and what babel has.
func parrot(t testing.TB) Backend {
	b := newBabel()
	status := manager(b.fake, map[string]any{"pools": map[string]any{"pools": []map[string]any{
		{"name": "m", "actions": []string{"chat", "complete"}}, {"name": "e", "actions": []string{"embed"}}, {"name": "p", "actions": []string{"echo"}},
	}}})
	body := func(v any) ipc.Body {
		b, err := ipc.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	return backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == controlPool {
			return status.Call(ctx, req)
		}
		asked, err := jsonbody.Encode(req.Body)
		if err != nil {
			return nil, err
		}
		replies := []*ipc.Reply{{Body: body(map[string]any{"text": "you "})}, {Body: body(map[string]any{"text": string(asked)})}}
		last := &ipc.Reply{End: true, Body: body(map[string]any{"finish_reason": "length", "usage": map[string]int{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}})}
		switch {
		case req.Pool == "m" && (req.Action == "chat" || req.Action == "complete"):
			return &listed{b, append(replies, last)}, nil
		case req.Pool == "fails":
			return &listed{b, append(replies, &ipc.Reply{End: true, Err: ipc.Errorf(ipc.Aborted, "worker_lost", "it died")})}, nil
		case req.Pool == "odd":
			return &listed{b, []*ipc.Reply{{End: true, Body: ipc.Body{1}}}}, nil
		case req.Pool == "plain":
			return &listed{b, []*ipc.Reply{{End: true, Body: body("just text")}}}, nil
		case req.Pool == "e":
			data := make([]byte, 16)
			for i, v := range []float32{1, -2.5, 3, float32(math.Pi)} {
				binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
			}
			return &listed{b, []*ipc.Reply{{End: true, Tensors: []ipc.Tensor{{Name: "embeddings", DType: "float32", Shape: []uint64{2, 2}, Data: data}}, Body: body(map[string]any{"usage": map[string]int{"total_tokens": 4}})}}}, nil
		case req.Pool == "lists":
			return &listed{b, []*ipc.Reply{{End: true, Body: body(map[string]any{"embeddings": [][]float64{{1, 2}, {3, 4}}})}}}, nil
		case req.Pool == "code": // chat that fails with the code in the body
			var asked struct {
				Code string `msgpack:"code"`
			}
			if err := req.Body.Decode(&asked); err != nil {
				return nil, err
			}
			r := *req
			r.Action = asked.Code
			return b.Call(ctx, &r)
		}
		return b.Call(ctx, req)
	})
}

func TestOpenAIModels(t *testing.T) {
	s := start(t, parrot(t), Config{})
	c := browser(t, s.path, 1)
	var list struct {
		Object string
		Data   []struct{ ID, Object string }
	}
	if _, _, body := ask(t, c, "GET", "h/v1/models", ""); json.Unmarshal([]byte(body), &list) != nil || list.Object != "list" || len(list.Data) != 2 || list.Data[0].ID != "m" || list.Data[1].ID != "e" {
		t.Errorf("models: %s", body)
	}
	if status, _, body := ask(t, c, "GET", "h/v1/models/m", ""); status != 200 || !strings.Contains(body, `"id":"m"`) {
		t.Errorf("one: %d %s", status, body)
	}
	if status, _, body := ask(t, c, "GET", "h/v1/models/p", ""); status != 404 || !strings.Contains(body, `"code":"model_not_found"`) {
		t.Errorf("a pool that is no model: %d %s", status, body)
	}
}

func TestOpenAIChat(t *testing.T) {
	s := start(t, parrot(t), Config{})
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for sent, want := range map[string]string{
			`{"model":"m","messages":[{"role":"user","content":"hi"}],"stop":["x"],"temperature":0,"n":1,"stream":false,"stream_options":null}`:                      `{"messages":[{"role":"user","content":"hi"}],"stop":["x"],"temperature":0}`,
			`{"max_completion_tokens":5,"messages":[{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"role":"developer","name":"n"}],"model":"m"}`: `{"messages":[{"content":"ab","role":"system","name":"n"}],"max_tokens":5}`,
			`{"model":"m","messages":[{"content":[{"type":"image_url"}]},7],"max_tokens":1,"max_completion_tokens":2}`:                                               `{"messages":[{"content":[{"type":"image_url"}]},7],"max_tokens":1}`,
			`{"model":"m","messages":"no list"}`: `{"messages":"no list"}`,
		} {
			var answer struct {
				ID, Object, Model string
				Choices           []struct {
					Message      struct{ Role, Content string }
					FinishReason string `json:"finish_reason"`
				}
				Usage map[string]int
			}
			status, _, body := ask(t, c, "POST", "h/v1/chat/completions", sent)
			if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
				t.Fatalf("%d %s", status, body)
			}
			if answer.Object != "chat.completion" || !strings.HasPrefix(answer.ID, "chatcmpl-") || answer.Model != "m" || answer.Usage["total_tokens"] != 3 || len(answer.Choices) != 1 {
				t.Errorf("%s", body)
			}
			if choice := answer.Choices[0]; choice.Message.Content != "you "+want || choice.Message.Role != "assistant" || choice.FinishReason != "length" {
				t.Errorf("%s: the action got %+v, want %s", sent, choice, want)
			}
		}
		_, header, body := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"m","stream":true,"messages":[],"stream_options":{"include_usage":true}}`)
		text, events := "", strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
		for _, event := range events {
			var piece struct {
				Object  string
				Choices []struct{ Delta struct{ Content string } }
			}
			if data := strings.TrimPrefix(event, "data: "); json.Unmarshal([]byte(data), &piece) == nil && len(piece.Choices) == 1 {
				text += piece.Choices[0].Delta.Content
			}
		}
		if n := len(events); n != 6 || text != `you {"messages":[]}` || events[n-1] != "data: [DONE]" || !strings.Contains(events[0], `"role":"assistant"`) ||
			!strings.Contains(events[n-3], `"finish_reason":"length"`) || !strings.Contains(events[n-2], `"choices":[],`) || !strings.Contains(events[n-2], `"total_tokens":3`) || header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("a stream: %s", body)
		}
		if _, _, body := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"m","stream":true,"messages":[]}`); strings.Contains(body, "usage") {
			t.Errorf("usage that nobody asked for: %s", body)
		}
		if _, _, body := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"plain","messages":[]}`); !strings.Contains(body, `"content":"just text"`) || !strings.Contains(body, `"finish_reason":"stop"`) {
			t.Errorf("a plain answer: %s", body)
		}
		if status, _, body := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"fails","stream":true,"messages":[]}`); status != 200 || !strings.HasSuffix(body, `"type":"server_error"}}`+"\n\n") || !strings.Contains(body, `"code":"worker_lost"`) {
			t.Errorf("a stream that breaks off: %d %s", status, body)
		}
		if status, _, body := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"fails","messages":[]}`); status != 502 || !strings.Contains(body, `"code":"worker_lost"`) {
			t.Errorf("an answer that breaks off: %d %s", status, body)
		}
	}
}

func TestOpenAICompletions(t *testing.T) {
	s := start(t, parrot(t), Config{})
	c := browser(t, s.path, 1)
	if _, _, body := ask(t, c, "POST", "h/v1/completions", `{"model":"m","prompt":["once"],"max_tokens":3}`); !strings.Contains(body, `"text":"you {\"prompt\":\"once\",\"max_tokens\":3}"`) || !strings.Contains(body, `"object":"text_completion"`) {
		t.Error(body)
	}
	if _, _, body := ask(t, c, "POST", "h/v1/completions", `{"model":"m","prompt":"once","stream":true}`); !strings.Contains(body, `"text":"you "`) || !strings.HasSuffix(body, "data: [DONE]\n\n") || strings.Contains(body, "delta") {
		t.Error(body)
	}
}

func TestOpenAIEmbeddings(t *testing.T) {
	s := start(t, parrot(t), Config{})
	c := browser(t, s.path, 1)
	for sent, want := range map[string]string{
		`{"model":"e","input":["a","b"]}`:                            `"embedding":[1,-2.5],"index":0,`,
		`{"model":"e","input":["a","b"],"encoding_format":"base64"}`: `"embedding":"AACAPwAAIMA=","index":0,`,
		`{"model":"lists","input":"a","encoding_format":"float"}`:    `"embedding":[3,4],"index":1,`,
		`{"model":"p","input":"a"}`:                                  `"message":"it failed"`,
		`{"model":"odd","input":"a"}`:                                `it must be a tensor embeddings`,
		`{"model":"e","input":[1,2]}`:                                `it must be a string, or a list of strings`,
		`{"model":"e","input":"x","encoding_format":"hex"}`:          `it must be float or base64`,
	} {
		if _, _, body := ask(t, c, "POST", "h/v1/embeddings", sent); !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %s", sent, body, want)
		}
	}
}

// An error has the same code, reason and message as by frames, with OpenAI's shape and HTTP's status.
func TestOpenAIErrors(t *testing.T) {
	s := start(t, parrot(t), Config{MaxMessage: 1 << 16})
	native, c := dial(t, s.path), browser(t, s.path, 1)
	for code := range rpcCode {
		body, err := ipc.Marshal(map[string]string{"code": string(code)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = recv(native.call(t, "chat", func(r *ipc.Request) { r.Pool, r.Body = "code", body }))
		want := ipc.AsError(err)
		status, header, answer := ask(t, c, "POST", "h/v1/chat/completions", `{"model":"code","code":"`+string(code)+`"}`)
		var got struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(answer), &got); err != nil || status != httpStatus(want) || got.Error.Code != want.Reason || got.Error.Message != want.Message || got.Error.Type == "" || header.Get("Retry-After") != "2" || header.Get("Retry-After-Ms") != "1500" {
			t.Errorf("%s: %d %v %s, want %v", code, status, header, answer, want)
		}
	}
	for _, tt := range []struct {
		sent   string
		status int
		want   string
	}{
		{``, 400, `not JSON`}, {`[]`, 400, `not an object`}, {`{"model":"m"`, 400, `not JSON`}, {`{"model":"m"} x`, 400, `something follows`}, {`{}`, 400, `no model`}, {`{"model":7}`, 400, `wrong type`}, {`{"model":"m","stream":"yes"}`, 400, `wrong type`},
		{`{"model":"m","n":2}`, 400, `one answer`}, {"{\"model\":\"\xff\"}", 400, `UTF-8`}, {`{"model":"nowhere","messages":[]}`, 404, `"code":"model_not_found"`}, {`{"model":"m","x":1e999}`, 400, `out of range`},
		{`{"model":"odd","messages":[]}`, 500, `it must be {text`}, {`{"model":"` + strings.Repeat("x", 1<<16) + `"}`, 413, `too_large`},
	} {
		status, _, body := ask(t, c, "POST", "h/v1/chat/completions", tt.sent)
		if status != tt.status || !strings.Contains(body, tt.want) || !strings.HasPrefix(body, `{"error":{`) {
			t.Errorf("%.50q: %d %s, want %d %s", tt.sent, status, body, tt.status, tt.want)
		}
	}
	if status, _, _ := ask(t, c, "GET", "h/v1/chat/completions", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", status)
	}
}

// Whatever is posted, what comes back is JSON, or events.
func FuzzOpenAI(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"stream":false}`), uint8(0))
	f.Add([]byte(`{"model":"m","prompt":["x"],"stream":true,"stream_options":{"include_usage":true}}`), uint8(1))
	f.Add([]byte(`{"model":"e","input":["x"],"encoding_format":"base64"}`), uint8(2))
	s := start(f, parrot(f), Config{MaxMessage: 1 << 16})
	c := browser(f, s.path, 2)
	f.Fuzz(func(t *testing.T, body []byte, path uint8) {
		status, header, answer := ask(t, c, "POST", "h/v1/"+[]string{"chat/completions", "completions", "embeddings"}[path%3], string(body))
		if header.Get("Content-Type") == "text/event-stream" && strings.HasPrefix(answer, "data: ") {
			return
		}
		if !json.Valid([]byte(answer)) {
			t.Fatalf("%q: %d %s", body, status, answer)
		}
	})
}
