package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	binaryHeader  = "Inference-Header-Content-Length" // how many bytes of a body are JSON; tensors follow
	base64Content = "base64"                          // the content_type of an input or output whose elements are no strings
	elementText   = 26                                // bytes that an element takes as JSON, at most
)

// oipRoutes are the paths of the Open Inference Protocol; docs/protocols.md has the tables.
func (w *web) oipRoutes(rs *routes) {
	rs.add("GET", "/v2", w.oip((*exchange).oipServer))
	rs.add("GET", "/v2/{$}", w.oip((*exchange).oipServer))
	rs.add("GET", "/v2/health/live", w.oip((*exchange).oipLive))
	rs.add("GET", "/v2/health/ready", w.oip((*exchange).oipReady))
	rs.add("POST", "/v2/repository/index", w.oip((*exchange).oipIndex))
	for _, model := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		rs.add("GET", model, w.oip((*exchange).oipModel))
		rs.add("GET", model+"/ready", w.oip((*exchange).oipModelReady))
		rs.add("POST", model+"/infer", w.oip((*exchange).oipInfer))
	}
}

// oip answers with what a function says, or with its error.
func (w *web) oip(answer func(*exchange) *ipc.Error) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		x := w.exchange(rw, r)
		defer x.close()
		if e := answer(x); e != nil {
			x.oipError(e)
		}
	}
}

// oipError answers with an error in the protocol's form.
func (x *exchange) oipError(e *ipc.Error) {
	retryAfter(x.w.Header(), e)
	x.json(httpStatus(e), map[string]string{"error": e.Error()})
}

func (x *exchange) oipServer() *ipc.Error {
	x.json(http.StatusOK, map[string]any{"name": oipPlatform, "version": version.Version, "extensions": oipExtensions})
	return nil
}

func (x *exchange) oipLive() *ipc.Error {
	x.json(http.StatusOK, map[string]bool{"live": true})
	return nil
}

func (x *exchange) oipReady() *ipc.Error {
	if _, e := x.receive(); e != nil {
		return e
	}
	pools, e := x.pools(x.r.Context(), "")
	if e != nil {
		return e
	}
	x.readiness(every(pools))
	return nil
}

func (x *exchange) readiness(ready bool) {
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	x.json(status, map[string]bool{"ready": ready})
}

func (x *exchange) oipModelReady() *ipc.Error {
	if _, e := x.receive(); e != nil {
		return e
	}
	ready, e := x.modelReady(x.r.Context(), x.r.PathValue("model"), x.r.PathValue("version"))
	if e != nil {
		return e
	}
	x.readiness(ready)
	return nil
}

// oipModel says what is known of a model.
func (x *exchange) oipModel() *ipc.Error {
	if _, e := x.receive(); e != nil {
		return e
	}
	m, e := x.modelOf(x.r.Context(), x.r.PathValue("model"), x.r.PathValue("version"))
	if e != nil {
		return e
	}
	actions := m.actions
	if actions == nil {
		actions = []string{}
	}
	x.json(http.StatusOK, map[string]any{"name": m.name, "versions": []string{onlyVersion}, "platform": oipPlatform, "inputs": m.inputs, "outputs": m.outputs, "actions": actions})
	return nil
}

// oipIndex lists the models.
func (x *exchange) oipIndex() *ipc.Error {
	body, e := x.receive()
	if e != nil {
		return e
	}
	var asked struct {
		Ready bool `json:"ready"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &asked); err != nil {
			return invalidInference("not what an index is asked with, {\"ready\": true}: %v", err)
		}
	}
	all, e := x.modelsOf(x.r.Context())
	if e != nil {
		return e
	}
	list := []any{}
	for _, m := range all {
		if m.ready || !asked.Ready {
			list = append(list, map[string]string{"name": m.name, "version": onlyVersion, "state": m.state, "reason": m.reason})
		}
	}
	x.json(http.StatusOK, list)
	return nil
}

// oipInfer answers a request for inference.
func (x *exchange) oipInfer() *ipc.Error {
	in, form, e := x.oipRequest()
	if e != nil {
		return e
	}
	req, e := x.infer(x.r.Context(), in, x.place)
	if e != nil {
		return e
	}
	reply, e := x.one(x.r.Context(), x.place, req)
	if e != nil {
		return e
	}
	out, e := x.inferred(x.place, in, reply)
	if e != nil {
		return e
	}
	document, tensors, e := x.oipDocument(in, out, form)
	if e != nil {
		return e
	}
	x.tell(reply)
	if tensors == nil {
		x.whole(http.StatusOK, "application/json", document)
		return nil
	}
	x.w.Header().Set(binaryHeader, strconv.Itoa(len(document)))
	x.whole(http.StatusOK, "application/octet-stream", append([][]byte{document}, tensors...)...)
	return nil
}

// binaryForm is which outputs are to come as bytes behind the JSON.
type binaryForm struct {
	all    bool
	byName map[string]bool // what a requested output says itself
}

func (f binaryForm) of(name string) bool {
	if own, said := f.byName[name]; said {
		return own
	}
	return f.all
}

// tensorJSON is an input or a requested output.
type tensorJSON struct {
	Name       string          `json:"name"`
	Datatype   string          `json:"datatype"`
	Shape      json.RawMessage `json:"shape"`
	Parameters struct {
		Size        *int64 `json:"binary_data_size"`
		Binary      *bool  `json:"binary_data"`
		ContentType string `json:"content_type"`
		SharedName  string `json:"shared_memory_region"`
	} `json:"parameters"`
	Data json.RawMessage `json:"data"`
}

// oipRequest receives a request for inference: JSON, perhaps with tensors behind it, which are used where they lie.
func (x *exchange) oipRequest() (*inferRequest, binaryForm, *ipc.Error) {
	header := x.r.Header.Get(binaryHeader)
	factor := int64(jsonFactor)
	if header != "" {
		factor = 1
	}
	body, e := x.take(factor)
	if e != nil {
		return nil, binaryForm{}, e
	}
	document, tensors := body, []byte(nil)
	if header != "" {
		n, err := strconv.Atoi(header)
		if err != nil || n < 0 || n > len(body) {
			return nil, binaryForm{}, invalidInference("the header %s is %q; the body has %d bytes", binaryHeader, outline([]byte(header)), len(body))
		}
		document, tensors = body[:n:n], body[n:]
		if e := x.place.Add((jsonFactor - 1) * int64(n)); e != nil {
			return nil, binaryForm{}, e
		}
	}
	if !utf8.Valid(document) {
		return nil, binaryForm{}, ipc.Errorf(ipc.InvalidArgument, "bad_body", "the JSON is not UTF-8")
	}
	return x.parseInference(document, tensors)
}

// parseInference reads a request.
func (x *exchange) parseInference(document, tensors []byte) (in *inferRequest, form binaryForm, _ *ipc.Error) {
	in, form = &inferRequest{model: x.r.PathValue("model"), version: x.r.PathValue("version")}, binaryForm{byName: map[string]bool{}}
	var inputs, outputs, parameters json.RawMessage
	err := jsonbody.Members(document, func(key string, value json.RawMessage) error {
		switch key {
		case "id":
			return member(key, value, &in.id)
		case "parameters":
			parameters = value
		case "inputs":
			inputs = value
		case "outputs":
			outputs = value
		}
		return nil
	})
	if err == nil && some(parameters) {
		err = in.readParameters(parameters, &form)
	}
	if err == nil && some(outputs) {
		err = in.readOutputs(outputs, form)
	}
	if err == nil && some(inputs) {
		tensors, err = x.readInputs(in, inputs, tensors)
	}
	if err == nil && len(tensors) > 0 {
		err = fmt.Errorf("%d bytes follow that belong to no input", len(tensors))
	}
	var e *ipc.Error
	switch {
	case errors.As(err, &e):
		return nil, form, e
	case err != nil:
		return nil, form, invalidInference("%v", err)
	}
	return in, form, nil
}

// some reports whether a member is there, and not null.
func some(value json.RawMessage) bool { return len(value) > 0 && string(value) != "null" }

func (in *inferRequest) readParameters(object json.RawMessage, form *binaryForm) error {
	return jsonbody.Members(object, func(key string, value json.RawMessage) error {
		if key == "binary_data_output" {
			return member(key, value, &form.all)
		}
		b, err := jsonbody.Decode(value)
		if err != nil {
			return fmt.Errorf("parameters: %s: %w", key, err)
		}
		in.parameters = slices.DeleteFunc(in.parameters, func(p parameter) bool { return p.name == key })
		in.parameters = append(in.parameters, parameter{key, b})
		if len(in.parameters) > maxTensors {
			return fmt.Errorf("there are more than %d parameters", maxTensors)
		}
		return nil
	})
}

func (in *inferRequest) readOutputs(list json.RawMessage, form binaryForm) error {
	return jsonbody.Elements(list, func(value json.RawMessage) error {
		var t tensorJSON
		if err := json.Unmarshal(value, &t); err != nil || t.Name == "" {
			return fmt.Errorf("outputs: element %d is %s; it must be {name, parameters}", len(in.wanted), outline(value))
		}
		if t.Parameters.Binary != nil {
			form.byName[t.Name] = *t.Parameters.Binary
		}
		if in.wanted = append(in.wanted, t.Name); len(in.wanted) > maxTensors {
			return fmt.Errorf("there are more than %d outputs", maxTensors)
		}
		return nil
	})
}

// readInputs reads the inputs, and returns what they leave of the tensors behind the JSON.
func (x *exchange) readInputs(in *inferRequest, list json.RawMessage, tensors []byte) ([]byte, error) {
	err := jsonbody.Elements(list, func(value json.RawMessage) error {
		t, err := x.readInput(value, &tensors)
		if err != nil {
			return fmt.Errorf("inputs: element %d: %w", len(in.inputs), err)
		}
		if in.inputs = append(in.inputs, t); len(in.inputs) > maxTensors {
			return fmt.Errorf("there are more than %d inputs", maxTensors)
		}
		return nil
	})
	return tensors, err
}

func (x *exchange) readInput(value json.RawMessage, tensors *[]byte) (t inferTensor, err error) {
	var in tensorJSON
	if json.Unmarshal(value, &in) != nil {
		return t, fmt.Errorf("it is %s; it must be {name, datatype, shape, parameters, data}", outline(value))
	}
	t.name, t.datatype = in.Name, in.Datatype
	switch {
	case t.name == "":
		return t, errors.New("it has no name")
	case t.datatype != textType && dtypes[t.datatype] == "":
		return t, fmt.Errorf("%s: the datatype is %q; it must be one of the protocol's, such as FP32, or BYTES", outline([]byte(t.name)), outline([]byte(t.datatype)))
	case in.Parameters.SharedName != "":
		return t, ipc.Errorf(ipc.Unimplemented, "shared_memory", "%s lies in shared memory; send it in the body, or use Ringmaster's own clients, which share memory by themselves", outline([]byte(t.name)))
	}
	if err := t.readShape(in.Shape); err != nil {
		return t, fmt.Errorf("%s: %w", t.name, err)
	}
	if err := x.readData(&t, in, tensors); err != nil {
		return t, fmt.Errorf("%s: %w", t.name, err)
	}
	return t, nil
}

func (t *inferTensor) readShape(list json.RawMessage) error {
	if !some(list) || list[0] != '[' {
		return fmt.Errorf("the shape is %s; it must be a list of whole numbers", outline(list))
	}
	return leaves(list, func(leaf []byte) error {
		n, err := strconv.ParseUint(string(leaf), 10, 63)
		if err != nil || len(t.shape) == maxRank {
			return fmt.Errorf("the shape is %s; it must be a list of up to %d whole numbers", outline(list), maxRank)
		}
		t.shape = append(t.shape, n)
		return nil
	})
}

// readData finds an input's data: behind the JSON, or in it.
func (x *exchange) readData(t *inferTensor, in tensorJSON, tensors *[]byte) error {
	limit := uint64(x.web.srv.cfg.MaxMessage)
	count, fits := elements(t.shape, limit)
	if !fits {
		return tooLarge(int64(limit))
	}
	if in.Parameters.Size != nil {
		n := *in.Parameters.Size
		switch {
		case some(in.Data):
			return errors.New("it has data, and binary_data_size")
		case n < 0 || n > int64(len(*tensors)):
			return fmt.Errorf("binary_data_size is %d; %d bytes are left behind the JSON", n, len(*tensors))
		}
		t.data, *tensors = (*tensors)[:n:n], (*tensors)[n:]
		return t.unpack(count, x.place)
	}
	if !some(in.Data) || in.Data[0] != '[' && len(t.shape) > 0 {
		return fmt.Errorf("data is %s; it must be a list", outline(in.Data))
	}
	size := count * uint64(listMemory)
	if t.datatype != textType {
		size = count * ipc.ItemSize(dtypes[t.datatype])
	}
	if size > limit && t.datatype != textType {
		return tooLarge(int64(limit))
	}
	if count > uint64(len(in.Data)) {
		return fmt.Errorf("the shape has %d elements; there are fewer", count)
	}
	if e := x.place.Add(int64(size)); e != nil {
		return e
	}
	got := uint64(0)
	if t.datatype == textType {
		t.texts = make([][]byte, 0, count)
	} else {
		t.data = make([]byte, 0, size)
	}
	err := leaves(in.Data, func(leaf []byte) (err error) {
		if got++; got > count {
			return counted(got, count)
		}
		if t.datatype != textType {
			t.data, err = appendLeaf(t.data, t.datatype, leaf)
			return err
		}
		text, err := parseText(leaf, in.Parameters.ContentType == base64Content)
		t.texts = append(t.texts, text)
		return err
	})
	if err == nil {
		err = counted(got, count)
	}
	return err
}

// unpack takes the elements of BYTES apart, if it is an input of these.
func (t *inferTensor) unpack(count uint64, place *ipc.Place) error {
	if t.datatype != textType {
		return nil
	}
	if count > uint64(len(t.data)) {
		return fmt.Errorf("the shape has %d elements; there are fewer", count)
	}
	if e := place.Add(listMemory * int64(count)); e != nil {
		return e
	}
	var err error
	t.texts, err = splitTexts(t.data, count)
	t.data = nil
	return err
}

// oipDocument makes JSON of an answer, and the tensors that go behind it; nil: none does. The client is charged before.
func (x *exchange) oipDocument(in *inferRequest, out *inferred, form binaryForm) (document []byte, tensors [][]byte, _ *ipc.Error) {
	size := int64(256)
	for _, t := range out.outputs {
		binary := form.of(t.name)
		switch {
		case t.datatype != textType && !binary:
			size += elementText * int64(len(t.data)) * 8 / int64(bitsOf(t.datatype))
		case t.datatype == textType:
			for _, text := range t.texts {
				size += 2*int64(len(text)) + 8
			}
		}
		size += 128 + int64(len(t.name))
	}
	if e := x.place.Add(size); e != nil {
		return nil, nil, e
	}
	text := func(s string) []byte {
		b, err := json.Marshal(s)
		if err != nil { // of a string: it does not happen
			return []byte(`""`)
		}
		return b
	}
	d := append([]byte(`{"model_name":`), text(in.model)...)
	d = append(d, `,"model_version":"`+onlyVersion+`"`...)
	if in.id != "" {
		d = append(append(d, `,"id":`...), text(in.id)...)
	}
	if len(out.parameters) > 0 {
		b, err := jsonbody.Encode(mapOf(out.parameters))
		if err != nil {
			return nil, nil, ipc.AsError(err)
		}
		d = append(append(d, `,"parameters":`...), b...)
	}
	d = append(d, `,"outputs":[`...)
	for i, t := range out.outputs {
		if i > 0 {
			d = append(d, ',')
		}
		d = append(append(d, `{"name":`...), text(t.name)...)
		d = append(d, `,"datatype":"`+t.datatype+`","shape":[`...)
		for j, n := range t.shape {
			if j > 0 {
				d = append(d, ',')
			}
			d = strconv.AppendUint(d, n, 10)
		}
		d = append(d, ']')
		if form.of(t.name) {
			if t.datatype == textType {
				t.data = joinTexts(t.texts)
			}
			d = fmt.Appendf(d, `,"parameters":{"binary_data_size":%d}}`, len(t.data))
			tensors = append(tensors, t.data)
			continue
		}
		if encoded := t.datatype == textType && !readable(t.texts); encoded {
			d = append(d, `,"parameters":{"content_type":"`+base64Content+`"}`...)
		}
		d = append(d, `,"data":[`...)
		if t.datatype == textType {
			d = appendTexts(d, t.texts, !readable(t.texts))
		} else {
			d = appendElements(d, t.datatype, t.data)
		}
		d = append(d, "]}"...)
	}
	return append(d, "]}"...), tensors, nil
}
