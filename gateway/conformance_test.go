package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/proto/inference"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// tongue is one way to ask. call returns the answer's body as JSON, its tensors, and the error as far as the protocol tells it: where it has no place for a retry or details, it leaves them out. native is the status
// or number that the protocol gives the error, as docs/protocols.md has it.
type tongue struct {
	name   string
	call   func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string)
	native func(e *ipc.Error) string
	bare   bool // no retry, no details
	named  bool // bodies have members, whose values are numbers, booleans, and lists
}

// tongues are all ways to ask a server.
func tongues(t *testing.T, s *testServer) []tongue {
	native, h1, h2, conn := dial(t, s.path), browser(t, s.path, 1), browser(t, s.path, 2), grpcDial(t, s.path)
	none := func(*ipc.Error) string { return "" }
	httpNumber := func(e *ipc.Error) string { return fmt.Sprint(httpStatus(e)) }
	grpcNumber := func(e *ipc.Error) string { return fmt.Sprint(int(grpcCodes[e.Code])) }
	list := []tongue{
		{name: "frames", native: none, call: func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
			b, err := jsonbody.Decode([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			reply, err := recv(native.call(t, action, func(r *ipc.Request) { r.Pool, r.Body, r.Tensors = pool, b, tensors }))
			if err != nil {
				return nil, nil, ipc.AsError(err), ""
			}
			out, err := jsonbody.Encode(reply.Body)
			if err != nil {
				t.Fatal(err)
			}
			return out, reply.Tensors, nil, ""
		}},
		{name: "ringmaster.v1", native: grpcNumber, call: func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
			in := &ringmasterv1.CallRequest{Pool: pool, Action: action, Body: &ringmasterv1.CallRequest_Json{Json: body}}
			for _, one := range tensors {
				in.Tensors = append(in.Tensors, &ringmasterv1.Tensor{Name: one.Name, Dtype: one.DType, Shape: one.Shape, Data: one.Data})
			}
			out, err := ringmasterv1.NewRingmasterClient(conn).Call(patient(t), in)
			if err != nil {
				return nil, nil, asIPC(t, err), fmt.Sprint(int(status.Code(err)))
			}
			var back []ipc.Tensor
			for _, one := range out.GetTensors() {
				back = append(back, ipc.Tensor{Name: one.GetName(), DType: one.GetDtype(), Shape: one.GetShape(), Data: one.GetData()})
			}
			return json.RawMessage(out.GetJson()), back, nil, ""
		}},
		{name: "OIP by gRPC", native: grpcNumber, named: true, call: func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
			return oipByGRPC(t, inference.NewGRPCInferenceServiceClient(conn), pool, action, body, tensors)
		}},
	}
	for version, c := range map[string]*http.Client{"1.1": h1, "2": h2} {
		list = append(list, tongue{name: "JSON-RPC, HTTP/" + version, call: func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
			b, err := jsonbody.Decode([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			params, err := jsonbody.EncodeMessage(b, tensors)
			if err != nil {
				t.Fatal(err)
			}
			r := rpc(t, c, pool+"."+action, string(params))
			if r.Error != nil {
				return nil, nil, r.err(), fmt.Sprint(r.Error.Code)
			}
			b, back, err := jsonbody.DecodeMessage(r.Result)
			if err != nil {
				t.Fatal(err)
			}
			out, err := jsonbody.Encode(b)
			if err != nil {
				t.Fatal(err)
			}
			return out, back, nil, ""
		}, native: func(e *ipc.Error) string { return fmt.Sprint(rpcCode[e.Code]) }})
		for _, binary := range []bool{false, true} {
			list = append(list, tongue{name: fmt.Sprintf("OIP, HTTP/%s, binary %v", version, binary), native: httpNumber, bare: true, named: true, call: func(pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
				return oipByREST(t, c, pool, action, body, tensors, binary)
			}})
		}
	}
	return list
}

// oipByREST asks by the Open Inference Protocol: lists of strings go as inputs of BYTES, other members as parameters.
func oipByREST(t *testing.T, c *http.Client, pool, action, body string, tensors []ipc.Tensor, binary bool) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
	var members map[string]any
	if err := json.Unmarshal([]byte(body), &members); err != nil {
		t.Fatal(err)
	}
	parameters := map[string]any{"action": action, "binary_data_output": binary}
	inputs := []any{}
	var behind []byte
	for key, value := range members {
		if list, ok := value.([]any); ok {
			inputs = append(inputs, map[string]any{"name": key, "datatype": "BYTES", "shape": []int{len(list)}, "data": list})
		} else {
			parameters[key] = value
		}
	}
	for _, one := range tensors {
		in := map[string]any{"name": one.Name, "datatype": datatypes[one.DType], "shape": one.Shape}
		if binary {
			in["parameters"] = map[string]any{"binary_data_size": len(one.Data)}
			behind = append(behind, one.Data...)
		} else {
			in["data"] = json.RawMessage("[" + string(appendElements(nil, datatypes[one.DType], one.Data)) + "]")
		}
		inputs = append(inputs, in)
	}
	document, err := json.Marshal(map[string]any{"parameters": parameters, "inputs": inputs, "id": "x"})
	if err != nil {
		t.Fatal(err)
	}
	var headers []string
	if binary {
		headers = []string{binaryHeader, fmt.Sprint(len(document))}
	}
	code, header, answer := ask(t, c, "POST", "h/v2/models/"+pool+"/infer", string(document)+string(behind), headers...)
	if code != 200 {
		var failed struct{ Error string }
		if err := json.Unmarshal([]byte(answer), &failed); err != nil {
			t.Fatalf("%d %s", code, answer)
		}
		name, message, _ := strings.Cut(failed.Error, ": ")
		kind, reason, _ := strings.Cut(name, "/")
		return nil, nil, &ipc.Error{Code: ipc.Code(kind), Reason: reason, Message: message}, fmt.Sprint(code)
	}
	raw := []byte(answer)
	if n := header.Get(binaryHeader); n != "" {
		var size int
		fmt.Sscan(n, &size)
		answer, raw = answer[:size], raw[size:]
	}
	var out struct {
		ID         string
		Parameters map[string]any
		Outputs    []struct {
			Name, Datatype string
			Shape          []uint64
			Parameters     struct {
				Size int `json:"binary_data_size"`
			}
			Data []json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(answer), &out); err != nil || out.ID != "x" {
		t.Fatalf("%s: %v", answer, err)
	}
	back := out.Parameters
	if back == nil {
		back = map[string]any{}
	}
	var arrays []ipc.Tensor
	for _, o := range out.Outputs {
		data := raw[:o.Parameters.Size]
		if binary {
			raw = raw[o.Parameters.Size:]
		} else if data = nil; o.Datatype != textType {
			for _, leaf := range o.Data {
				if data, err = appendLeaf(data, o.Datatype, leaf); err != nil {
					t.Fatal(err)
				}
			}
		}
		if o.Datatype != textType {
			arrays = append(arrays, ipc.Tensor{Name: o.Name, DType: dtypes[o.Datatype], Shape: o.Shape, Data: data})
			continue
		}
		var texts []any
		if binary {
			all, err := splitTexts(data, o.Shape[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range all {
				texts = append(texts, string(text))
			}
		}
		for _, leaf := range o.Data {
			texts = append(texts, leaf)
		}
		back[o.Name] = texts
	}
	return marshalled(t, back), arrays, nil, ""
}

func marshalled(t *testing.T, v map[string]any) json.RawMessage {
	if len(v) == 0 {
		return json.RawMessage("null")
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oipByGRPC is oipByREST, by gRPC.
func oipByGRPC(t *testing.T, c inference.GRPCInferenceServiceClient, pool, action, body string, tensors []ipc.Tensor) (json.RawMessage, []ipc.Tensor, *ipc.Error, string) {
	text := func(s string) *inference.InferParameter {
		return &inference.InferParameter{ParameterChoice: &inference.InferParameter_StringParam{StringParam: s}}
	}
	in := &inference.ModelInferRequest{ModelName: pool, Id: "x", Parameters: map[string]*inference.InferParameter{"action": text(action)}}
	var members map[string]any
	if err := json.Unmarshal([]byte(body), &members); err != nil {
		t.Fatal(err)
	}
	add := func(name, datatype string, shape []uint64, data []byte) {
		input := &inference.ModelInferRequest_InferInputTensor{Name: name, Datatype: datatype}
		for _, n := range shape {
			input.Shape = append(input.Shape, int64(n))
		}
		in.Inputs, in.RawInputContents = append(in.Inputs, input), append(in.RawInputContents, data)
	}
	for key, value := range members {
		switch value := value.(type) {
		case []any:
			var texts [][]byte
			for _, one := range value {
				texts = append(texts, []byte(one.(string)))
			}
			add(key, textType, []uint64{uint64(len(texts))}, joinTexts(texts))
		case bool:
			in.Parameters[key] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: value}}
		case float64:
			in.Parameters[key] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_DoubleParam{DoubleParam: value}}
		}
	}
	for _, one := range tensors {
		add(one.Name, datatypes[one.DType], one.Shape, one.Data)
	}
	out, err := c.ModelInfer(patient(t), in)
	if err != nil {
		return nil, nil, asIPC(t, err), fmt.Sprint(int(status.Code(err)))
	}
	back := map[string]any{}
	for key, value := range out.GetParameters() {
		back[key] = parameterValue(value)
	}
	var arrays []ipc.Tensor
	for i, o := range out.GetOutputs() {
		var shape []uint64
		for _, n := range o.GetShape() {
			shape = append(shape, uint64(n))
		}
		if o.GetDatatype() != textType {
			arrays = append(arrays, ipc.Tensor{Name: o.GetName(), DType: dtypes[o.GetDatatype()], Shape: shape, Data: out.GetRawOutputContents()[i]})
			continue
		}
		texts, err := splitTexts(out.GetRawOutputContents()[i], shape[0])
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, text := range texts {
			list = append(list, string(text))
		}
		back[o.GetName()] = list
	}
	return marshalled(t, back), arrays, nil, ""
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		t.Fatalf("%s, %s", a, b)
	}
	return reflect.DeepEqual(x, y)
}

// The same request has the same answer in every language, and the same error, with the number that the language's table has.
func TestProtocolsAgree(t *testing.T) {
	s := start(t, newBabel(), Config{})
	tensors := []ipc.Tensor{
		{Name: "a", DType: "float32", Shape: []uint64{2, 1}, Data: []byte{0, 0, 128, 63, 1, 2, 3, 4}},
		{Name: "b", DType: "uint8", Shape: []uint64{3}, Data: []byte{1, 0, 255}},
		{Name: "c", DType: "int64", Shape: []uint64{}, Data: []byte{1, 2, 3, 4, 5, 6, 7, 255}},
		{Name: "d", DType: "bool", Shape: []uint64{2}, Data: []byte{1, 0}},
		{Name: "e", DType: "float16", Shape: []uint64{2}, Data: []byte{0, 60, 1, 0}},
		{Name: "f", DType: "bfloat16", Shape: []uint64{1}, Data: []byte{128, 63}},
	}
	for _, tongue := range tongues(t, s) {
		t.Run(tongue.name, func(t *testing.T) {
			for _, body := range []string{`{"n":1,"x":2.5,"on":true,"texts":["a","ü",""]}`, `{"b":1,"a":[true,null,2.5,"x"]}`, `[1,2]`, `"text"`, `null`} {
				if tongue.named && !strings.HasPrefix(body, `{"n"`) {
					continue
				}
				out, back, e, _ := tongue.call("p", "echo", body, tensors)
				if e != nil || !sameJSON(t, out, json.RawMessage(body)) {
					t.Errorf("%s: %s, %v", body, out, e)
				}
				if len(back) != len(tensors) {
					t.Fatalf("%d tensors", len(back))
				}
				for j, one := range back {
					if one.Name != tensors[j].Name || one.DType != tensors[j].DType || fmt.Sprint(one.Shape) != fmt.Sprint(tensors[j].Shape) || !bytes.Equal(one.Data, tensors[j].Data) {
						t.Errorf("%s: %+v, want %+v", body, one, tensors[j])
					}
				}
			}
			for code := range rpcCode {
				want := ipc.Error{Code: code, Reason: "why", Message: "it failed", RetryAfter: 1500 * time.Millisecond, Details: map[string]string{"type": "T"}}
				if tongue.bare {
					want.RetryAfter, want.Details = 0, nil
				}
				_, _, e, number := tongue.call("p", string(code), `{}`, nil)
				if e == nil || !reflect.DeepEqual(*e, want) || number != tongue.native(&want) {
					t.Errorf("%s: %+v as %s, want it as %s", code, e, number, tongue.native(&want))
				}
			}
			if _, _, e, _ := tongue.call("nowhere", "echo", `{}`, nil); e == nil || e.Code != ipc.NotFound || e.Reason != "unknown_pool" {
				t.Errorf("an unknown pool: %v", e)
			}
			if _, _, e, _ := tongue.call("p", "count", `{}`, nil); tongue.name != "frames" && (e == nil || e.Reason != "stream") {
				t.Errorf("a stream: %v", e)
			}
		})
	}
}

// OpenAI's errors have the table's statuses, too, and its answers the same contents, as far as the form has room for them.
func TestOpenAIAgrees(t *testing.T) {
	s := start(t, parrot(t), Config{})
	c := browser(t, s.path, 2)
	for code := range rpcCode {
		want := &ipc.Error{Code: code, Reason: "why"}
		status, _, body := ask(t, c, "POST", "h/v1/embeddings", fmt.Sprintf(`{"model":"code","code":%q,"input":"x"}`, code))
		if status != httpStatus(want) || !strings.Contains(body, `"code":"why"`) {
			t.Errorf("%s: %d %s", code, status, body)
		}
	}
	_, _, body := ask(t, c, "POST", "h/v1/embeddings", `{"model":"e","input":["a","b"],"encoding_format":"base64"}`)
	var out struct{ Data []struct{ Embedding string } }
	if err := json.Unmarshal([]byte(body), &out); err != nil || len(out.Data) != 2 {
		t.Fatalf("%s, %v", body, err)
	}
	_, header, answer := ask(t, c, "POST", "h/v2/models/e/infer", `{"parameters":{"action":"embed","binary_data_output":true},"inputs":[{"name":"input","datatype":"BYTES","shape":[2],"data":["a","b"]}],"outputs":[{"name":"embeddings"}]}`)
	var size int
	fmt.Sscan(header.Get(binaryHeader), &size)
	row, err := base64.StdEncoding.DecodeString(out.Data[0].Embedding)
	if err != nil || len(answer) != size+16 || !strings.HasPrefix(answer[size:], string(row)) {
		t.Errorf("%q is not %q, %v", answer, row, err)
	}
}

// What a client tells the call chain, and what that tells it, are headers of the same names in each direction, whichever way it asks.
func TestHeadersOfTheChain(t *testing.T) {
	if got := toldBy(http.Header{"X-Ringmaster-Session": {"a", "b"}, "X-Ringmaster-Timeout": {"1"}, "X-Ringmaster-": {"x"}, "X-Ringmaster-No-Store": {}, "Session": {"c"}, "X-Ringmaster-Cache": {"no-store"}}); !reflect.DeepEqual(got, map[string]string{"session": "a", "cache": "no-store"}) {
		t.Errorf("%v", got)
	}
	if got := toldBy(http.Header{"Accept": {"*/*"}, "X-Ringmaster-Timeout": {"1"}}); got != nil {
		t.Errorf("nothing told is %v", got)
	}
	b := newBabel()
	s := start(t, backendFunc(func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		reply := &ipc.Reply{End: true, Headers: map[string]string{"attempts": "2", "bad name": "x", "seen": req.Headers["session"] + "/" + req.Headers["cache"]}}
		if req.Action == chatAction {
			reply.Body = []byte{0xa1, 'x'}
		}
		b.now.Add(1)
		return &listed{b, []*ipc.Reply{reply}}, nil
	}), Config{})
	told := []string{"X-Ringmaster-Session", "s 1", "x-ringmaster-CACHE", "bypass"}
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for _, tt := range []struct{ path, body, accept string }{
			{"rpc", `{"jsonrpc":"2.0","id":1,"method":"p.a"}`, "*/*"},
			{"rpc", `{"jsonrpc":"2.0","id":1,"method":"p.a"}`, "text/event-stream"},
			{"v1/chat/completions", `{"model":"p"}`, "*/*"},
			{"v1/chat/completions", `{"model":"p","stream":true}`, "*/*"},
			{"v1/embeddings", `{"model":"p","input":"x"}`, "*/*"},
			{"v2/models/p/infer", `{}`, "*/*"},
		} {
			status, h, body := ask(t, c, "POST", "h/"+tt.path, tt.body, append(told, "Accept", tt.accept)...)
			if status != 200 || h.Get("X-Ringmaster-Seen") != "s 1/bypass" || h.Get("X-Ringmaster-Attempts") != "2" {
				t.Errorf("HTTP/%d, %s: %d %v %s", version, tt.path, status, h, body)
			}
		}
		if _, h, _ := ask(t, c, "POST", "h/rpc", `[{"jsonrpc":"2.0","id":1,"method":"p.a"}]`, told...); h.Get("X-Ringmaster-Seen") != "" {
			t.Errorf("a batch: %v", h)
		}
	}
}
