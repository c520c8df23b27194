package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	inferAction  = "infer"
	onlyVersion  = "1" // of every model
	oipPlatform  = "ringmaster"
	maxTensors   = 1024 // inputs of a request, and outputs that it asks for
	maxRank      = 32
	listMemory   = 32 // bytes that an element of a list takes while it becomes one of BYTES
	actionsPause = time.Second
)

// oipExtensions are those of Triton's that are here.
var oipExtensions = []string{"binary_tensor_data"}

// inferRequest is a request of the Open Inference Protocol, by REST or gRPC.
type inferRequest struct {
	model, version, id string
	parameters         []parameter
	inputs             []inferTensor
	wanted             []string // outputs; none: all
}

// parameter is one of a request's or of a response's.
type parameter struct {
	name  string
	value ipc.Body
}

// inferTensor is an input or an output.
type inferTensor struct {
	name, datatype string
	shape          []uint64
	data           []byte   // row-major, little-endian
	texts          [][]byte // of BYTES, instead
}

// invalidInference says what is wrong with a request.
func invalidInference(format string, args ...any) *ipc.Error {
	return ipc.Errorf(ipc.InvalidArgument, "invalid_argument", format, args...)
}

// checkVersion says whether a model has a version: each has one.
func checkVersion(model, v string) *ipc.Error {
	if v != "" && v != onlyVersion {
		return ipc.Errorf(ipc.NotFound, "unknown_pool", "the model %q has no version %q; every model has version %s alone", model, outline([]byte(v)), onlyVersion)
	}
	return nil
}

// infer makes the request of a pool: its body is the parameters with each input of BYTES beside them, its tensors are the other inputs.
func (x *exchange) infer(ctx context.Context, in *inferRequest, place *ipc.Place) (*ipc.Request, *ipc.Error) {
	if e := checkVersion(in.model, in.version); e != nil {
		return nil, e
	}
	req := &ipc.Request{Pool: in.model}
	var members []parameter
	for _, p := range in.parameters {
		switch p.name {
		case "action":
			if err := p.value.Decode(&req.Action); err != nil {
				return nil, invalidInference("the parameter action is no string; it names an action of the pool")
			}
		case "timeout": // Triton's
			var micros int64
			if err := p.value.Decode(&micros); err != nil || micros <= 0 || micros > math.MaxInt64/1000 {
				return nil, invalidInference("the parameter timeout must be microseconds, a whole number more than 0")
			}
			req.Timeout = time.Duration(micros) * time.Microsecond
		case "binary_data_output", finalFlag, finalWish:
		default:
			members = append(members, p)
		}
	}
	for i := range in.inputs {
		t := &in.inputs[i]
		if t.datatype != textType {
			req.Tensors = append(req.Tensors, ipc.Tensor{Name: t.name, DType: dtypes[t.datatype], Shape: t.shape, Data: t.data})
			if err := req.Tensors[len(req.Tensors)-1].Validate(); err != nil {
				return nil, ipc.AsError(err)
			}
			continue
		}
		if slices.ContainsFunc(members, func(p parameter) bool { return p.name == t.name }) {
			return nil, invalidInference("%q is a parameter and an input of BYTES, or two; both are members of the body", outline([]byte(t.name)))
		}
		list, e := textList(t, place)
		if e != nil {
			return nil, e
		}
		members = append(members, parameter{t.name, list})
	}
	if req.Action == "" {
		req.Action = x.soleAction(ctx, place, in.model)
	}
	req.Body = mapOf(members)
	return req, ipc.AsError(req.Body.Validate())
}

// mapOf is a body with members, nil if there are none.
func mapOf(members []parameter) ipc.Body {
	if len(members) == 0 {
		return nil
	}
	var out bytes.Buffer
	enc := msgpack.NewEncoder(&out)
	_ = enc.EncodeMapLen(len(members)) // a buffer takes all
	for _, m := range members {
		_ = enc.EncodeString(m.name)
		if len(m.value) == 0 {
			_ = enc.EncodeNil()
		}
		out.Write(m.value)
	}
	return out.Bytes()
}

// textList is an input of BYTES as the body has it: a list of strings, nested as the shape says, of bytes where an element is not UTF-8.
func textList(t *inferTensor, place *ipc.Place) (ipc.Body, *ipc.Error) {
	size := 16
	for _, text := range t.texts {
		size += 2 * (len(text) + 5)
	}
	if e := place.Add(int64(size)); e != nil {
		return nil, e
	}
	var out bytes.Buffer
	enc := msgpack.NewEncoder(&out)
	next := 0
	var walk func(shape []uint64)
	walk = func(shape []uint64) {
		if len(shape) == 0 {
			if text := t.texts[next]; utf8.Valid(text) {
				_ = enc.EncodeString(string(text))
			} else {
				_ = enc.EncodeBytes(text)
			}
			next++
			return
		}
		_ = enc.EncodeArrayLen(int(shape[0])) // no more than there are texts, or 0
		for range shape[0] {
			walk(shape[1:])
		}
	}
	if shape := t.shape; len(t.texts) == 0 {
		_ = enc.EncodeArrayLen(0)
	} else {
		walk(shape)
	}
	return out.Bytes(), nil
}

// soleActions remembers for a moment which action pools have that have one alone, as far as whoever asks by a connection may use them: nobody learns from a refusal which action another's pool has.
type soleActions struct {
	mu            sync.Mutex
	until         time.Time         // guarded by mu
	authorization string            // guarded by mu; in whose name it was asked
	byPool        map[string]string // guarded by mu
}

// soleAction is the action that a request to a pool asks for unless it says so: the only one that its client may use there, else infer.
func (x *exchange) soleAction(ctx context.Context, place *ipc.Place, pool string) string {
	known, authorization := &x.conn.actions, x.r.Header.Get("Authorization")
	known.mu.Lock()
	byPool, good := known.byPool, known.authorization == authorization && time.Now().Before(known.until)
	known.mu.Unlock()
	if !good {
		byPool = x.askForActions(ctx, place)
		known.mu.Lock()
		known.byPool, known.authorization, known.until = byPool, authorization, time.Now().Add(actionsPause)
		known.mu.Unlock()
	}
	if action, ok := byPool[pool]; ok {
		return action
	}
	return inferAction
}

// askForActions asks which actions of which pools run if none is named. That this fails, the request itself will meet and tell.
func (x *exchange) askForActions(ctx context.Context, place *ipc.Place) map[string]string {
	reply, e := x.one(ctx, place, &ipc.Request{Pool: controlPool, Action: "pools"})
	var list ipc.PoolList
	if e != nil || reply.Body.Decode(&list) != nil {
		return nil
	}
	sole := map[string]string{}
	for _, p := range list.Pools {
		sole[p.Name] = unnamedAction(p.Actions)
	}
	return sole
}

// unnamedAction is which of a pool's actions runs if a request names none.
func unnamedAction(actions []string) string {
	if len(actions) == 1 {
		return actions[0]
	}
	return inferAction
}

// inferred is an answer: what a reply becomes.
type inferred struct {
	parameters []parameter // numbers and booleans
	outputs    []inferTensor
}

// inferred makes outputs of a reply's tensors, and of its body: of a map's members, or of what it is. Its client pays.
func (x *exchange) inferred(place *ipc.Place, in *inferRequest, reply *ipc.Reply) (*inferred, *ipc.Error) {
	out := &inferred{}
	for _, t := range reply.Tensors {
		datatype := datatypes[t.DType]
		if datatype == "" {
			return nil, ipc.Errorf(ipc.Internal, "internal", "the model replied with a tensor %q of %s, which the Open Inference Protocol lacks", t.Name, t.DType)
		}
		out.outputs = append(out.outputs, inferTensor{name: clean(t.Name), datatype: datatype, shape: t.Shape, data: t.Data})
	}
	if len(reply.Body) > 0 {
		if e := out.members(reply.Body, place); e != nil {
			return nil, e
		}
	}
	if len(in.wanted) == 0 {
		return out, nil
	}
	all := out.outputs
	out.outputs = nil
	for _, name := range in.wanted {
		i := slices.IndexFunc(all, func(t inferTensor) bool { return t.name == name })
		if i < 0 {
			return nil, invalidInference("there is no output %q; this answer has %s", outline([]byte(name)), namesOf(all))
		}
		out.outputs = append(out.outputs, all[i])
	}
	return out, nil
}

// clean is text that both JSON and Protocol Buffers take.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func namesOf(outputs []inferTensor) string {
	names := make([]string, len(outputs))
	for i := range outputs {
		names[i] = outputs[i].name
	}
	if len(names) == 0 {
		return "none"
	}
	return outline([]byte(strings.Join(names, ", ")))
}

// wholeName is the name of the output that a body becomes which is no map.
const wholeName = "output"

// members makes parameters and outputs of a body.
func (out *inferred) members(body ipc.Body, place *ipc.Place) *ipc.Error {
	if err := ipc.Scan(body); err != nil {
		return ipc.Errorf(ipc.Internal, "internal", "the model's reply is not MessagePack: %v", err)
	}
	in := bytes.NewReader(body)
	d := msgpack.NewDecoder(in)
	if c, err := d.PeekCode(); err != nil || !msgpcode.IsFixedMap(c) && c != msgpcode.Map16 && c != msgpcode.Map32 {
		if c == msgpcode.Nil {
			return nil
		}
		return out.member(wholeName, body, place)
	}
	n, err := d.DecodeMapLen()
	for ; n > 0 && err == nil; n-- {
		begin := len(body) - in.Len()
		if err = d.Skip(); err != nil {
			break
		}
		key := body[begin : len(body)-in.Len()]
		var name string
		if key.Decode(&name) != nil {
			b, _ := jsonbody.Encode(key) // what is no string is named by its JSON
			name = string(b)
		}
		begin = len(body) - in.Len()
		if err = d.Skip(); err != nil {
			break
		}
		if e := out.member(clean(name), body[begin:len(body)-in.Len()], place); e != nil {
			return e
		}
	}
	return ipc.AsError(err)
}

// member makes a parameter of a number or a boolean, nothing of null, and an output of all others.
func (out *inferred) member(name string, value ipc.Body, place *ipc.Place) *ipc.Error {
	if e := place.Add(int64(len(value)) + 128); e != nil {
		return e
	}
	switch c := value[0]; {
	case c == msgpcode.Nil:
		return nil
	case name != wholeName && (c == msgpcode.True || c == msgpcode.False || msgpcode.IsFixedNum(c) || c >= msgpcode.Float && c <= msgpcode.Int64):
		out.parameters = append(out.parameters, parameter{name, value})
		return nil
	}
	g := gathering{in: bytes.NewReader(value), body: value, place: place}
	g.d = msgpack.NewDecoder(g.in)
	switch regular, err := g.walk(0); {
	case g.refused != nil:
		return g.refused
	case err != nil:
		return ipc.AsError(err)
	case regular:
		out.outputs = append(out.outputs, g.tensor(name))
		return nil
	}
	if e := place.Add(jsonFactor * int64(len(value))); e != nil {
		return e
	}
	b, err := jsonbody.Encode(value)
	if err != nil {
		return ipc.AsError(err)
	}
	out.outputs = append(out.outputs, inferTensor{name: name, datatype: textType, shape: []uint64{1}, texts: [][]byte{b}})
	return nil
}

// gathering makes a tensor of a list of lists, if it is regular: numbers, booleans, or strings and bytes.
type gathering struct {
	in      *bytes.Reader
	d       *msgpack.Decoder
	body    []byte
	place   *ipc.Place
	paid    int
	refused *ipc.Error

	shape    []uint64
	deep     bool   // the depth is known: there was an element
	datatype string // "": there was none
	data     []byte
	texts    [][]byte
}

// walk takes the next value, at a depth, and reports whether it fits what came before.
func (g *gathering) walk(depth int) (bool, error) {
	c, err := g.d.PeekCode()
	if err != nil {
		return false, err
	}
	if !msgpcode.IsFixedArray(c) && c != msgpcode.Array16 && c != msgpcode.Array32 {
		if g.deep && depth != len(g.shape) || !g.deep && depth < len(g.shape) {
			return false, nil
		}
		g.deep = true
		return g.leaf(c)
	}
	n, err := g.d.DecodeArrayLen()
	switch {
	case err != nil || depth >= maxRank:
		return false, err
	case depth < len(g.shape):
		if g.shape[depth] != uint64(n) {
			return false, nil
		}
	case g.deep:
		return false, nil
	default:
		g.shape = append(g.shape, uint64(n))
	}
	for range n {
		if regular, err := g.walk(depth + 1); !regular || err != nil {
			return false, err
		}
	}
	return true, nil
}

// leaf takes an element.
func (g *gathering) leaf(c byte) (bool, error) {
	if g.paid -= listMemory; g.paid < 0 {
		g.paid = 64 << 10
		if g.refused = g.place.Add(int64(g.paid)); g.refused != nil {
			return false, g.refused
		}
	}
	switch {
	case msgpcode.IsString(c) || msgpcode.IsBin(c):
		n, err := g.d.DecodeBytesLen()
		if err != nil || !g.fits(textType) {
			return false, err
		}
		begin := len(g.body) - g.in.Len()
		g.texts = append(g.texts, g.body[begin:begin+n])
		_, err = g.in.Seek(int64(n), 1)
		return true, err
	case c == msgpcode.True || c == msgpcode.False:
		v, err := g.d.DecodeBool()
		if v {
			g.data = append(g.data, 1)
		} else {
			g.data = append(g.data, 0)
		}
		return g.fits("BOOL"), err
	case c == msgpcode.Float || c == msgpcode.Double:
		if g.datatype == "INT64" { // until now there were whole ones only
			for i := 0; i < len(g.data); i += 8 {
				whole := int64(binary.LittleEndian.Uint64(g.data[i:]))
				binary.LittleEndian.PutUint64(g.data[i:], math.Float64bits(float64(whole)))
			}
			g.datatype = "FP64"
		}
		v, err := g.d.DecodeFloat64()
		g.data = binary.LittleEndian.AppendUint64(g.data, math.Float64bits(v))
		return g.fits("FP64"), err
	case c == msgpcode.Uint64:
		v, err := g.d.DecodeUint64()
		switch {
		case v <= math.MaxInt64:
			return g.whole(int64(v)), err
		case g.datatype == "FP64":
			g.data = binary.LittleEndian.AppendUint64(g.data, math.Float64bits(float64(v)))
			return true, err
		}
		g.data = binary.LittleEndian.AppendUint64(g.data, v)
		return g.fits("UINT64"), err
	case msgpcode.IsFixedNum(c) || c >= msgpcode.Uint8 && c <= msgpcode.Int64:
		v, err := g.d.DecodeInt64()
		return g.whole(v), err
	}
	return false, nil
}

// whole takes a whole number.
func (g *gathering) whole(v int64) bool {
	if g.datatype == "FP64" {
		g.data = binary.LittleEndian.AppendUint64(g.data, math.Float64bits(float64(v)))
		return true
	}
	g.data = binary.LittleEndian.AppendUint64(g.data, uint64(v))
	return g.fits("INT64")
}

// fits reports whether an element is of the datatype that the others have.
func (g *gathering) fits(datatype string) bool {
	if g.datatype == "" {
		g.datatype = datatype
	}
	return g.datatype == datatype
}

// tensor is what was gathered. A value that is no list has one element.
func (g *gathering) tensor(name string) inferTensor {
	if g.datatype == "" {
		g.datatype = textType
	}
	if len(g.shape) == 0 {
		g.shape = []uint64{1}
	}
	return inferTensor{name: name, datatype: g.datatype, shape: g.shape, data: g.data, texts: g.texts}
}

// modelState is a pool, as the protocol sees it.
type modelState struct {
	name, state, reason string
	actions             []string
	ready               bool
	inputs, outputs     []port // of what is run if a request names no action, as far as its worker declares it
}

// port is an input or an output that is declared.
type port struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// portsOf are what a worker declares, less what the protocol has no datatype for.
func portsOf(declared []ipc.Port) []port {
	ports := []port{}
	for _, d := range declared {
		datatype := datatypes[d.DType]
		if d.DType == ipc.TextType {
			datatype = textType
		}
		if datatype != "" {
			ports = append(ports, port{clean(d.Name), datatype, append([]int64{}, d.Shape...)})
		}
	}
	return ports
}

// modelsOf asks which models there are.
func (x *exchange) modelsOf(ctx context.Context) ([]modelState, *ipc.Error) {
	var list ipc.PoolList // those that the client may use, pipelines among them
	if e := x.controlled(ctx, "pools", "", &list); e != nil {
		return nil, e
	}
	var all []modelState
	for _, p := range list.Pools {
		m := modelState{name: p.Name, actions: p.Actions, ready: p.State == "ready", state: "UNAVAILABLE"}
		signature := p.Signatures[unnamedAction(p.Actions)]
		m.inputs, m.outputs = portsOf(signature.Inputs), portsOf(signature.Outputs)
		switch p.State {
		case "ready":
			m.state = "READY"
		case "loading":
			m.state = "LOADING"
		default:
			m.reason = p.State
		}
		all = append(all, m)
	}
	return all, nil
}

// modelOf asks about one.
func (x *exchange) modelOf(ctx context.Context, name, v string) (modelState, *ipc.Error) {
	all, e := x.modelsOf(ctx)
	if e != nil {
		return modelState{}, e
	}
	i := slices.IndexFunc(all, func(m modelState) bool { return m.name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i := range all {
			names[i] = all[i].name
		}
		return modelState{}, ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no model %q; there are %s", outline([]byte(name)), strings.Join(names, ", "))
	}
	return all[i], checkVersion(name, v)
}

// modelReady reports whether a model has just answered.
func (x *exchange) modelReady(ctx context.Context, name, v string) (bool, *ipc.Error) {
	if e := checkVersion(name, v); e != nil {
		return false, e
	}
	pools, e := x.pools(ctx, name)
	if e != nil && e.Reason == "unknown_pool" { // or a pipeline, which has no health of its own
		m, e := x.modelOf(ctx, name, v)
		return m.ready, e
	}
	return e == nil && every(pools), e
}
