package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/proto/inference"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// shop is a backend with pools of one action and of two, which say what they are asked.
func shop() Backend {
	b := newBabel()
	signatures := map[string]ipc.Signature{
		"echo": {Inputs: []ipc.Port{{Name: "image", DType: "bfloat16", Shape: []int64{-1, 3}}, {Name: "text", DType: ipc.TextType, Shape: nil}}, Outputs: []ipc.Port{{Name: "z", DType: "complex64", Shape: []int64{1}}}},
	}
	status := map[string]any{"pools": []map[string]any{
		{"name": "one", "state": "ready", "actions": []string{"echo"}, "signatures": signatures},
		{"name": "two", "state": "loading", "actions": []string{"echo", "infer"}, "signatures": signatures},
		{"name": "off", "state": "drained", "actions": []string{}},
		{"name": "chained", "state": "ready", "actions": []string{"infer"}}, // a pipeline
	}}
	health := healthOf(true, "")["health"]
	return backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		switch {
		case req.Pool == controlPool && req.Action == "pools":
			body, err := ipc.Marshal(status)
			return &echoReplies{body: body}, err
		case req.Pool == controlPool && len(req.Body) > 0:
			var args struct {
				Pool string `msgpack:"pool"`
			}
			if err := req.Body.Decode(&args); err != nil || args.Pool == "nowhere" || args.Pool == "chained" {
				return nil, ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no pool %q", args.Pool)
			}
			body, err := ipc.Marshal(map[string]any{"pools": []map[string]any{{"name": args.Pool, "ok": args.Pool == "one"}}})
			return &echoReplies{body: body}, err
		case req.Pool == controlPool:
			body, err := ipc.Marshal(health)
			return &echoReplies{body: body}, err
		case req.Action == "infer":
			body, err := ipc.Marshal(map[string]any{"said": "infer"})
			return &echoReplies{body: body}, err
		case req.Action == "chunky":
			req.Action = "count"
		}
		return b.Call(ctx, req)
	})
}

// A refusal says nothing of another's pool: not even which action it has.
func TestOIPTellsNothingOfOthersPools(t *testing.T) {
	g := startGuarded(t, shop(), Config{}, "two")
	c := browser(t, g.path, 1)
	bearer := []string{"Authorization", "Bearer " + g.token}
	for _, pool := range []string{"one", "nonsense"} {
		if status, _, body := ask(t, c, "POST", "h/v2/models/"+pool+"/infer", `{}`, bearer...); status != 403 || !strings.Contains(body, `for \"infer\"`) {
			t.Errorf("%s: %d %s", pool, status, body)
		}
	}
	if status, _, body := ask(t, c, "POST", "h/v2/models/one/infer", `{}`); status != 200 || !strings.Contains(body, `"outputs":[]`) { // the owner, by the same connection
		t.Errorf("the owner: %d %s", status, body)
	}
	if status, _, body := ask(t, c, "POST", "h/v2/models/two/infer", `{}`, bearer...); status != 200 || !strings.Contains(body, `"name":"said"`) {
		t.Errorf("its own: %d %s", status, body)
	}
}

func TestOIPServer(t *testing.T) {
	s := start(t, shop(), Config{})
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for _, tt := range []struct {
			method, path, body string
			status             int
			want               string
		}{
			{"GET", "v2", "", 200, `"name":"ringmaster"`},
			{"GET", "v2/", "", 200, `"extensions":["binary_tensor_data"]`},
			{"GET", "v2/health/live", "", 200, `{"live":true}`},
			{"GET", "v2/health/ready", "", 200, `{"ready":true}`},
			{"GET", "v2/models/one", "", 200, `{"actions":["echo"],"inputs":[{"name":"image","datatype":"BF16","shape":[-1,3]},{"name":"text","datatype":"BYTES","shape":[]}],"name":"one","outputs":[],"platform":"ringmaster","versions":["1"]}`},
			{"GET", "v2/models/two", "", 200, `{"actions":["echo","infer"],"inputs":[],"name":"two","outputs":[],"platform":"ringmaster","versions":["1"]}`}, // infer declares none
			{"GET", "v2/models/one/versions/1", "", 200, `"name":"one"`},
			{"GET", "v2/models/one/versions/2", "", 404, `NOT_FOUND/unknown_pool`},
			{"GET", "v2/models/none", "", 404, `there are one, two, off, chained`},
			{"GET", "v2/models/chained/ready", "", 200, `{"ready":true}`},
			{"GET", "v2/models/one/ready", "", 200, `{"ready":true}`},
			{"GET", "v2/models/two/versions/1/ready", "", 503, `{"ready":false}`},
			{"GET", "v2/models/nowhere/ready", "", 404, `{"error":"NOT_FOUND/unknown_pool`},
			{"POST", "v2/repository/index", "", 200, `[{"name":"one","reason":"","state":"READY","version":"1"},{"name":"two","reason":"","state":"LOADING","version":"1"},{"name":"off","reason":"drained","state":"UNAVAILABLE","version":"1"},{"name":"chained","reason":"","state":"READY","version":"1"}]`},
			{"POST", "v2/repository/index", `{"ready":true}`, 200, `[{"name":"one","reason":"","state":"READY","version":"1"},{"name":"chained"`},
			{"POST", "v2/repository/index", `[]`, 400, `"error"`},
			{"POST", "v2/models/one/infer", `{}`, 200, `{"model_name":"one","model_version":"1","outputs":[]}`},
			{"POST", "v2/models/two/infer", `{}`, 200, `"name":"said"`},
			{"POST", "v2/models/two/versions/1/infer", `{"parameters":{"action":"echo"}}`, 200, `"outputs":[]`},
			{"POST", "v2/models/two/versions/3/infer", `{}`, 404, `no version`},
			{"POST", "v2/models/two/infer", `{"parameters":{"action":"chunky"}}`, 501, `UNIMPLEMENTED/stream`},
			{"GET", "v2/models/one/infer", ``, 405, ``},
		} {
			if status, _, body := ask(t, c, tt.method, "h/"+tt.path, tt.body); status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%s %s %s: %d %s, want %d %s", tt.method, tt.path, tt.body, status, body, tt.status, tt.want)
			}
		}
	}
	client, ctx := inference.NewGRPCInferenceServiceClient(grpcDial(t, s.path)), patient(t)
	if out, err := client.ServerLive(ctx, &inference.ServerLiveRequest{}); err != nil || !out.GetLive() {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := client.ModelReady(ctx, &inference.ModelReadyRequest{Name: "two"}); err != nil || out.GetReady() {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := client.ServerMetadata(ctx, &inference.ServerMetadataRequest{}); err != nil || out.GetName() != "ringmaster" {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := client.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: "one", Version: "1"}); err != nil || out.GetName() != "one" || out.GetVersions()[0] != "1" ||
		len(out.GetInputs()) != 2 || out.GetInputs()[0].GetDatatype() != "BF16" || !slices.Equal(out.GetInputs()[0].GetShape(), []int64{-1, 3}) || len(out.GetOutputs()) != 0 {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := client.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: "none"}); asIPC(t, err).Reason != "unknown_pool" {
		t.Error(err)
	}
	if out, err := client.RepositoryIndex(ctx, &inference.RepositoryIndexRequest{Ready: true}); err != nil || len(out.GetModels()) != 2 {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := client.ModelInfer(ctx, &inference.ModelInferRequest{ModelName: "two"}); err != nil || string(out.GetRawOutputContents()[0]) != "\x05\x00\x00\x00infer" {
		t.Errorf("%v, %v", out, err)
	}
}

// What goes in as data comes out as data, whatever the datatype.
func TestOIPData(t *testing.T) {
	s := start(t, shop(), Config{})
	c := browser(t, s.path, 1)
	for _, tt := range []struct{ datatype, shape, data, want string }{
		{"BOOL", "[2,2]", "[[true,false],[false,true]]", "[true,false,false,true]"},
		{"UINT8", "[3]", "[0,1,255]", ""}, {"UINT16", "[1]", "[65535]", ""}, {"UINT32", "[1]", "[4294967295]", ""}, {"UINT64", "[1]", "[18446744073709551615]", ""},
		{"INT8", "[2]", "[-128,127]", ""}, {"INT16", "[1]", "[-32768]", ""}, {"INT32", "[1]", "[-2147483648]", ""}, {"INT64", "[1]", "[-9223372036854775808]", ""},
		{"FP16", "[4]", "[1, -2.5, 65504, 6e-08]", "[1,-2.5,65504,5.9604645e-08]"}, {"BF16", "[2]", "[1,3.140625]", ""}, {"FP32", "[3]", "[0.1,1e+30,-0]", ""}, {"FP64", "[2]", "[0.1,1e+300]", ""},
		{"FP32", "[3]", `["NaN","Infinity","-Infinity"]`, ""}, {"FP32", "[0]", "[]", ""}, {"FP32", "[]", "[5]", "[5]"}, {"FP32", "[2,1,2]", " [ [[1,\n2]], [[3,4]] ] ", "[1,2,3,4]"},
		{"BYTES", "[2]", `["a","\u00fc\n"]`, `["a","ü\n"]`}, {"BYTES", "[2,1]", `[["a"],["b"]]`, `["a","b"]`}, {"BYTES", "[0]", `[]`, ``},
	} {
		sent := fmt.Sprintf(`{"id":"i","inputs":[{"name":"x","datatype":%q,"shape":%s,"data":%s}]}`, tt.datatype, tt.shape, tt.data)
		want := tt.want
		if want == "" {
			want = tt.data
		}
		_, _, body := ask(t, c, "POST", "h/v2/models/one/infer", sent)
		full := fmt.Sprintf(`{"model_name":"one","model_version":"1","id":"i","outputs":[{"name":"x","datatype":%q,"shape":%s,"data":%s}]}`, tt.datatype, tt.shape, want)
		if body != full {
			t.Errorf("%s: %s, want %s", sent, body, full)
		}
	}
	_, _, body := ask(t, c, "POST", "h/v2/models/one/infer", `{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["/w=="],"parameters":{"content_type":"base64"}}]}`)
	if !strings.Contains(body, `"parameters":{"content_type":"base64"},"data":["/w=="]`) {
		t.Errorf("bytes that are no text: %s", body)
	}
}

// What an action replies with in its body becomes parameters and outputs.
func TestOIPReplies(t *testing.T) {
	for body, want := range map[string]string{
		`null`:                            `{}|`,
		`{}`:                              `{}|`,
		`"text"`:                          `{}|output BYTES [1] "text"`,
		`7`:                               `{}|output INT64 [1] 7`,
		`[1,2.5,-3]`:                      `{}|output FP64 [3] 1,2.5,-3`,
		`[[1,2],[3,4],[5,6]]`:             `{}|output INT64 [3 2] 1,2,3,4,5,6`,
		`[18446744073709551615]`:          `{}|output UINT64 [1] 18446744073709551615`,
		`[[true],[false]]`:                `{}|output BOOL [2 1] true,false`,
		`[]`:                              `{}|output BYTES [0] `,
		`[[1],[2,3]]`:                     `{}|output BYTES [1] "[[1],[2,3]]"`,
		`[1,"a"]`:                         `{}|output BYTES [1] "[1,\"a\"]"`,
		`[1,[2]]`:                         `{}|output BYTES [1] "[1,[2]]"`,
		`[[],1]`:                          `{}|output BYTES [1] "[[],1]"`,
		`{"a":1,"b":true,"c":2.5,"d":[]}`: `{"a":1,"b":true,"c":2.5}|d BYTES [0] `,
		`{"t":"x","n":null,"o":{"p":1},"l":["a","b"]}`: `{}|t BYTES [1] "x"|o BYTES [1] "{\"p\":1}"|l BYTES [2] "a","b"`,
	} {
		b, err := jsonbody.Decode([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		out, e := new(exchange).inferred(nobody(t), &inferRequest{}, &ipc.Reply{Body: b})
		if e != nil {
			t.Errorf("%s: %v", body, e)
			continue
		}
		parameters, err := jsonbody.Encode(mapOf(out.parameters))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Replace(string(parameters), "null", "{}", 1) + "|"
		for i, o := range out.outputs {
			if i > 0 {
				got += "|"
			}
			data := appendTexts(nil, o.texts, false)
			if o.datatype != textType {
				data = appendElements(nil, o.datatype, o.data)
			}
			got += fmt.Sprintf("%s %s %v %s", o.name, o.datatype, o.shape, data)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	if _, e := new(exchange).inferred(nobody(t), &inferRequest{}, &ipc.Reply{Tensors: []ipc.Tensor{{Name: "z", DType: "complex64"}}}); e == nil || e.Code != ipc.Internal {
		t.Errorf("a tensor without a datatype: %v", e)
	}
}

// Tensors behind the JSON are taken from there, and go there if they are asked for so.
func TestOIPBinary(t *testing.T) {
	s := start(t, shop(), Config{})
	c := browser(t, s.path, 2)
	document := `{"inputs":[{"name":"x","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},{"name":"t","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}},{"name":"y","datatype":"UINT8","shape":[1],"data":[7]}],` +
		`"parameters":{"binary_data_output":true},"outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"t"},{"name":"x"}]}`
	status, header, body := ask(t, c, "POST", "h/v2/models/one/infer", document+"\x01\x02\x03\x04\x01\x00\x00\x00a\x02\x00\x00\x00\xffb", binaryHeader, fmt.Sprint(len(document)), "Content-Type", "application/octet-stream")
	want := `{"model_name":"one","model_version":"1","outputs":[{"name":"y","datatype":"UINT8","shape":[1],"data":[7]},{"name":"t","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}},{"name":"x","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}}]}`
	if status != 200 || header.Get(binaryHeader) != fmt.Sprint(len(want)) || body != want+"\x01\x00\x00\x00a\x02\x00\x00\x00\xffb\x01\x02\x03\x04" || header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d %v %q", status, header, body)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	document = fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":[%d],"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, len(large)/4, len(large))
	for _, coding := range []string{"", codingGzip, codingZstd} {
		sent := append([]byte(document), large...)
		headers := []string{binaryHeader, fmt.Sprint(len(document))}
		if coding != "" {
			sent = packed(t, coding, sent)
			headers = append(headers, "Content-Encoding", coding, "Accept-Encoding", coding)
		}
		_, header, body = ask(t, c, "POST", "h/v2/models/one/infer", string(sent), headers...)
		whole := unpacked(t, coding, []byte(body))
		if header.Get("Content-Encoding") != coding || !bytes.HasSuffix(whole, large) {
			t.Errorf("%q: %v, %d bytes", coding, header, len(whole))
		}
	}
}

// badInference are requests that are none, with what is said of each.
var badInference = []struct{ name, sent, header, want string }{
	{"nothing", ``, "", `not JSON`},
	{"half", `{"inputs":[`, "", `EOF`},
	{"no object", `[]`, "", `not an object`},
	{"not UTF-8", "{\"id\":\"\xff\"}", "", `UTF-8`},
	{"an id of another type", `{"id":7}`, "", `wrong type`},
	{"inputs of another type", `{"inputs":7}`, "", `not an array`},
	{"an input of another type", `{"inputs":[7]}`, "", `it must be {name`},
	{"no name", `{"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]}`, "", `no name`},
	{"an unknown datatype", `{"inputs":[{"name":"x","datatype":"FP8","shape":[1],"data":[1]}]}`, "", `must be one of`},
	{"no shape", `{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}`, "", `shape`},
	{"a negative shape", `{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}]}`, "", `whole numbers`},
	{"a shape of eternity", `{"inputs":[{"name":"x","datatype":"FP32","shape":[4294967296,4294967296,4294967296],"data":[1]}]}`, "", `too_large`},
	{"a shape that nothing fills", `{"inputs":[{"name":"x","datatype":"UINT8","shape":[60000],"data":[1]}]}`, "", `fewer`},
	{"too few", `{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1]}]}`, "", `the shape has 2`},
	{"too many", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1,2]}]}`, "", `the shape has 1`},
	{"no data", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}`, "", `must be a list`},
	{"an object", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[{}]}]}`, "", `an object`},
	{"out of range", `{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[128]}]}`, "", `out of range`},
	{"no whole number", `{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[1.5]}]}`, "", `out of range`},
	{"a float that is none", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":["1"]}]}`, "", `out of range`},
	{"a number that is a string", `{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":[1]}]}`, "", `must be a string`},
	{"no base64", `{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["?"],"parameters":{"content_type":"base64"}}]}`, "", `base64`},
	{"shared memory", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r"}}]}`, "", `UNIMPLEMENTED/shared_memory`},
	{"an action that is none", `{"parameters":{"action":7}}`, "", `names an action`},
	{"a timeout that is none", `{"parameters":{"timeout":-1}}`, "", `microseconds`},
	{"a parameter and an input of one name", `{"parameters":{"x":1},"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["a"]}]}`, "", `both are members`},
	{"an output that is not there", `{"outputs":[{"name":"y"}]}`, "", `there is no output`},
	{"an output without a name", `{"outputs":[{}]}`, "", `must be {name`},
	{"a flood of inputs", `{"inputs":[` + strings.TrimSuffix(strings.Repeat(`{"name":"x","datatype":"FP32","shape":[0],"data":[]},`, maxTensors+1), ",") + `]}`, "", `more than`},
	{"a header that is none", `{}`, "x", `the body has 2 bytes`},
	{"a header beyond the body", `{}`, "3", `the body has 2 bytes`},
	{"bytes of nobody", `{}x`, "2", `belong to no input`},
	{"binary data that is not there", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}abc`, "}", `3 bytes are left`},
	{"binary data of another size", `{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":4}}]}abcd`, "}", `bad_tensor`},
	{"binary data and data", `{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":0}}]}`, "", `it has data`},
	{"texts that are longer than they are", `{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}]}` + "\xff\xff\xff\xff", "}", `longer than`},
	{"texts beyond the shape", `{"inputs":[{"name":"x","datatype":"BYTES","shape":[0],"parameters":{"binary_data_size":4}}]}` + "\x00\x00\x00\x00", "}", `the shape has 0`},
}

func TestBadOIP(t *testing.T) {
	s := start(t, shop(), Config{MaxMessage: 1 << 17})
	neighbour := dial(t, s.path)
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for _, tt := range badInference {
			var headers []string
			switch tt.header {
			case "":
			case "}": // the JSON's length
				headers = []string{binaryHeader, fmt.Sprint(strings.LastIndexByte(tt.sent, '}') + 1)}
			default:
				headers = []string{binaryHeader, tt.header}
			}
			status, _, body := ask(t, c, "POST", "h/v2/models/one/infer", tt.sent, headers...)
			var failed struct{ Error *string }
			if err := json.Unmarshal([]byte(body), &failed); err != nil || failed.Error == nil || !strings.Contains(*failed.Error, tt.want) || status < 400 || status > 501 {
				t.Errorf("%s: %d %s, want %s", tt.name, status, body, tt.want)
			}
		}
		if status, _, body := ask(t, c, "POST", "h/v2/models/one/infer", strings.Repeat(" ", 1<<17+1)); status != http.StatusRequestEntityTooLarge || !strings.Contains(body, `{"error":"INVALID_ARGUMENT/too_large`) {
			t.Errorf("too large: %d %s", status, body)
		}
	}
	hasty := start(t, shop(), Config{ReadTimeout: 100 * time.Millisecond})
	for name, head := range map[string]string{"a body that stops": "Content-Length: 100\r\n\r\n{", "tensors that stop": "Inference-Header-Content-Length: 2\r\nContent-Length: 100\r\n\r\n{}abc"} {
		conn := connect(t, hasty.path)
		_, _ = conn.Write([]byte("POST /v2/models/one/infer HTTP/1.1\r\nHost: x\r\n" + head))
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "504") || !strings.Contains(string(answer), `{"error":"DEADLINE_EXCEEDED/deadline`) {
			t.Errorf("%s: %s, %v", name, answer, err)
		}
	}
	p := func(name, datatype string, shape ...int64) *inference.ModelInferRequest_InferInputTensor {
		return &inference.ModelInferRequest_InferInputTensor{Name: name, Datatype: datatype, Shape: shape}
	}
	contents := p("x", "INT8", 1)
	contents.Contents = &inference.InferTensorContents{IntContents: []int32{128}}
	both := proto.Clone(contents).(*inference.ModelInferRequest_InferInputTensor)
	shared := p("x", "FP32", 1)
	shared.Parameters = map[string]*inference.InferParameter{"shared_memory_region": {}}
	client := inference.NewGRPCInferenceServiceClient(grpcDial(t, s.path))
	for name, tt := range map[string]struct {
		in   *inference.ModelInferRequest
		want string
	}{
		"no name":         {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("", "FP32")}}, "no name"},
		"no datatype":     {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "")}}, "must be one of"},
		"a negative":      {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "FP32", -1)}}, "0 or more"},
		"an eternity":     {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "FP32", math.MaxInt64, math.MaxInt64)}}, "larger than"},
		"raw for nobody":  {&inference.ModelInferRequest{RawInputContents: [][]byte{{1}}}, "1 raw_input_contents for 0"},
		"raw of a size":   {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "FP32", 2)}, RawInputContents: [][]byte{{1}}}, "needs 8 bytes"},
		"out of range":    {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{contents}}, "range of INT8"},
		"raw and typed":   {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{both}, RawInputContents: [][]byte{{1}}}, "it has contents"},
		"no contents":     {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "FP32", 2)}}, "the shape has 2"},
		"halves":          {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{p("x", "FP16", 0)}}, "no typed contents"},
		"shared memory":   {&inference.ModelInferRequest{Inputs: []*inference.ModelInferRequest_InferInputTensor{shared}}, "shared memory"},
		"another version": {&inference.ModelInferRequest{ModelVersion: "2"}, "no version"},
	} {
		tt.in.ModelName = "one"
		if _, err := client.ModelInfer(patient(t), tt.in); !strings.Contains(asIPC(t, err).Message, tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	neighbour.echo(t)
}

// Typed contents come back typed, and each request of a stream has its responses, with the id that it brought.
func TestOIPStream(t *testing.T) {
	s := start(t, shop(), Config{})
	client := inference.NewGRPCInferenceServiceClient(grpcDial(t, s.path))
	var inputs []*inference.ModelInferRequest_InferInputTensor
	for datatype, contents := range map[string]*inference.InferTensorContents{
		"BOOL": {BoolContents: []bool{true, false}}, "INT8": {IntContents: []int32{-128, 127}}, "INT16": {IntContents: []int32{-32768, 1}}, "INT32": {IntContents: []int32{math.MinInt32, 1}}, "INT64": {Int64Contents: []int64{math.MinInt64, 1}},
		"UINT8": {UintContents: []uint32{255, 1}}, "UINT16": {UintContents: []uint32{65535, 1}}, "UINT32": {UintContents: []uint32{math.MaxUint32, 1}}, "UINT64": {Uint64Contents: []uint64{math.MaxUint64, 1}},
		"FP32": {Fp32Contents: []float32{0.1, -1}}, "FP64": {Fp64Contents: []float64{0.1, -1}}, "BYTES": {BytesContents: [][]byte{[]byte("a"), {0xff}}},
	} {
		inputs = append(inputs, &inference.ModelInferRequest_InferInputTensor{Name: datatype, Datatype: datatype, Shape: []int64{2}, Contents: contents})
	}
	out, err := client.ModelInfer(patient(t), &inference.ModelInferRequest{ModelName: "one", Id: "7", Inputs: inputs})
	if err != nil || out.GetId() != "7" || len(out.GetOutputs()) != len(inputs) {
		t.Fatalf("%v, %v", out, err)
	}
	for _, o := range out.GetOutputs() {
		for _, in := range inputs {
			if in.GetName() == o.GetName() && (!proto.Equal(in.GetContents(), o.GetContents()) || o.GetDatatype() != in.GetDatatype()) {
				t.Errorf("%v came back as %v", in, o)
			}
		}
	}
	stream, err := client.ModelStreamInfer(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	action := func(name string) map[string]*inference.InferParameter {
		return map[string]*inference.InferParameter{"action": {ParameterChoice: &inference.InferParameter_StringParam{StringParam: name}}}
	}
	wish := action("count")
	wish[finalWish] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: true}}
	for id, in := range map[string]*inference.ModelInferRequest{"c": {Parameters: action("count")}, "w": {Parameters: wish}, "e": {Parameters: action("ABORTED")}, "v": {ModelVersion: "9"}} {
		in.ModelName, in.Id = "one", id
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	heard, final, failed := map[string]int{}, map[string]bool{}, map[string]string{}
	for {
		out, err := stream.Recv()
		if err != nil {
			break
		}
		id := out.GetInferResponse().GetId()
		heard[id]++
		final[id] = out.GetInferResponse().GetParameters()[finalFlag].GetBoolParam()
		failed[id] = out.GetErrorMessage()
	}
	if fmt.Sprint(heard) != "map[c:3 e:1 v:1 w:4]" || final["c"] || !final["w"] || failed["e"] != "ABORTED/why: it failed" || !strings.Contains(failed["v"], "no version") {
		t.Errorf("%v, %v, %v", heard, final, failed)
	}
}

func TestHalves(t *testing.T) {
	for h := range 1 << 16 {
		v := fromHalf(uint16(h))
		if back := toHalf(v); back != uint16(h) && v == v {
			t.Fatalf("%#x is %v, which is %#x", h, v, back)
		}
		b := math.Float32frombits(uint32(h) << 16)
		if back := toBfloat(b); back != uint16(h) && b == b {
			t.Fatalf("%#x is %v, which is %#x", h, b, back)
		}
	}
	for v, want := range map[float32]uint16{65520: 0x7c00, 65519.996: 0x7bff, 2049: 0x6800, 2051: 0x6802, 1e-8: 0, 2.9802322e-08: 0, 2.9802326e-08: 1, float32(math.Inf(-1)): 0xfc00, -0.5: 0xb800} {
		if got := toHalf(v); got != want {
			t.Errorf("%v: %#x, want %#x", v, got, want)
		}
	}
	if n := float32(math.NaN()); fromHalf(toHalf(n)) == fromHalf(toHalf(n)) {
		t.Error("not a number has become one")
	}
}

// Whatever is posted, what comes back is an answer of the protocol's, or its error.
func FuzzOIP(f *testing.F) {
	for _, tt := range badInference {
		f.Add([]byte(tt.sent), tt.header, false)
	}
	f.Add([]byte(`{"inputs":[{"name":"x","datatype":"BF16","shape":[2,1],"data":[[1],["NaN"]]}],"outputs":[{"name":"x","parameters":{"binary_data":true}}]}`), "", true)
	s := start(f, shop(), Config{MaxMessage: 1 << 17})
	c := browser(f, s.path, 2)
	f.Fuzz(func(t *testing.T, body []byte, header string, gz bool) {
		var headers []string
		if header != "" && !strings.ContainsAny(header, "\r\n\x00\x7f") && strings.ToValidUTF8(header, "") == header {
			headers = []string{binaryHeader, fmt.Sprintf("%.20q", header)}
			if len(header) < 4 {
				headers[1] = strings.Map(func(r rune) rune { return max(' ', min(r, '~')) }, header)
			}
		}
		if gz {
			headers = append(headers, "Content-Encoding", "gzip")
			body = packed(t, codingGzip, body)
		}
		status, h, answer := ask(t, c, "POST", "h/v2/models/one/infer", string(body), headers...)
		if n := h.Get(binaryHeader); n != "" {
			var size int
			fmt.Sscan(n, &size)
			answer = answer[:size]
		}
		if !json.Valid([]byte(answer)) || status != 200 && !strings.HasPrefix(answer, `{"error":"`) {
			t.Fatalf("%q: %d %s", body, status, answer)
		}
	})
}

// Whatever is sent as the messages of a call, it ends with a status, and nothing is left.
func FuzzGRPC(f *testing.F) {
	infer, err := proto.Marshal(&inference.ModelInferRequest{ModelName: "one", Inputs: []*inference.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1}}}, RawInputContents: [][]byte{{1, 2, 3, 4}}})
	if err != nil {
		f.Fatal(err)
	}
	talk, err := proto.Marshal(&ringmasterv1.ConverseRequest{Id: 1, What: &ringmasterv1.ConverseRequest_Call{Call: &ringmasterv1.CallRequest{Pool: "one", Action: "echo"}}})
	if err != nil {
		f.Fatal(err)
	}
	methods := []string{"inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ModelStreamInfer", "ringmaster.v1.Ringmaster/Call", "ringmaster.v1.Ringmaster/Converse", "ringmaster.v1.Ringmaster/Stream", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}
	f.Add(grpcFrame(0, infer), uint8(0), "")
	f.Add(append(grpcFrame(0, infer), grpcFrame(0, infer)...), uint8(1), "")
	f.Add(append(grpcFrame(0, talk), grpcFrame(1, packed(f, codingGzip, talk))...), uint8(3), "gzip")
	f.Add([]byte{0, 255, 255, 255, 255}, uint8(2), "zstd")
	s := start(f, shop(), Config{MaxMessage: 1 << 17})
	c := browser(f, s.path, 2)
	f.Fuzz(func(t *testing.T, body []byte, method uint8, coding string) {
		var headers []string
		if coding == codingGzip || coding == codingZstd {
			headers = []string{"Grpc-Encoding", coding}
		}
		if code, _ := frames(t, c, methods[int(method)%len(methods)], body, headers...); code == "" || len(code) > 2 {
			t.Fatalf("%q: %s", body, code)
		}
	})
}
