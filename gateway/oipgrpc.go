package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/proto/inference"
)

// The parameters that Triton's clients know of streams.
const (
	finalFlag = "triton_final_response"
	finalWish = "triton_enable_empty_final_response"
)

// inferer is the service inference.GRPCInferenceService.
type inferer struct {
	inference.UnimplementedGRPCInferenceServiceServer
	web *web
}

// ServerLive implements [inference.GRPCInferenceServiceServer].
func (inferer) ServerLive(context.Context, *inference.ServerLiveRequest) (*inference.ServerLiveResponse, error) {
	return &inference.ServerLiveResponse{Live: true}, nil
}

// ServerReady implements [inference.GRPCInferenceServiceServer].
func (inferer) ServerReady(ctx context.Context, _ *inference.ServerReadyRequest) (*inference.ServerReadyResponse, error) {
	pools, e := grpcCallOf(ctx).pools(ctx, "")
	if e != nil {
		return nil, e
	}
	return &inference.ServerReadyResponse{Ready: every(pools)}, nil
}

// ModelReady implements [inference.GRPCInferenceServiceServer].
func (inferer) ModelReady(ctx context.Context, in *inference.ModelReadyRequest) (*inference.ModelReadyResponse, error) {
	ready, e := grpcCallOf(ctx).modelReady(ctx, in.GetName(), in.GetVersion())
	if e != nil {
		return nil, e
	}
	return &inference.ModelReadyResponse{Ready: ready}, nil
}

// ServerMetadata implements [inference.GRPCInferenceServiceServer].
func (inferer) ServerMetadata(context.Context, *inference.ServerMetadataRequest) (*inference.ServerMetadataResponse, error) {
	return &inference.ServerMetadataResponse{Name: oipPlatform, Version: version.Version, Extensions: oipExtensions}, nil
}

// ModelMetadata implements [inference.GRPCInferenceServiceServer].
func (inferer) ModelMetadata(ctx context.Context, in *inference.ModelMetadataRequest) (*inference.ModelMetadataResponse, error) {
	m, e := grpcCallOf(ctx).modelOf(ctx, in.GetName(), in.GetVersion())
	if e != nil {
		return nil, e
	}
	return &inference.ModelMetadataResponse{Name: m.name, Versions: []string{onlyVersion}, Platform: oipPlatform, Inputs: portMessages(m.inputs), Outputs: portMessages(m.outputs)}, nil
}

func portMessages(ports []port) []*inference.ModelMetadataResponse_TensorMetadata {
	var list []*inference.ModelMetadataResponse_TensorMetadata
	for _, p := range ports {
		list = append(list, &inference.ModelMetadataResponse_TensorMetadata{Name: p.Name, Datatype: p.Datatype, Shape: p.Shape})
	}
	return list
}

// RepositoryIndex implements [inference.GRPCInferenceServiceServer].
func (inferer) RepositoryIndex(ctx context.Context, in *inference.RepositoryIndexRequest) (*inference.RepositoryIndexResponse, error) {
	all, e := grpcCallOf(ctx).modelsOf(ctx)
	if e != nil {
		return nil, e
	}
	out := &inference.RepositoryIndexResponse{}
	for _, m := range all {
		if m.ready || !in.GetReady() {
			out.Models = append(out.Models, &inference.RepositoryIndexResponse_ModelIndex{Name: m.name, Version: onlyVersion, State: m.state, Reason: m.reason})
		}
	}
	return out, nil
}

// ModelInfer implements [inference.GRPCInferenceServiceServer].
func (s inferer) ModelInfer(ctx context.Context, message *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	c := grpcCallOf(ctx)
	in, req, e := s.request(ctx, c, message, c.place)
	if e != nil {
		return nil, e
	}
	reply, e := c.one(ctx, c.place, req)
	if e != nil {
		return nil, e
	}
	c.tell(reply)
	out, e := c.inferResponse(c.place, in, message, reply)
	if e != nil {
		return nil, e
	}
	return out, nil
}

// ModelStreamInfer implements [inference.GRPCInferenceServiceServer].
func (s inferer) ModelStreamInfer(stream grpc.BidiStreamingServer[inference.ModelInferRequest, inference.ModelStreamInferResponse]) error {
	c := grpcCallOf(stream.Context())
	return many(c, stream, func(m *multiplex, message *inference.ModelInferRequest) {
		failed := func(e *ipc.Error) {
			out := &inference.ModelInferResponse{ModelName: message.GetModelName(), ModelVersion: onlyVersion, Id: message.GetId()}
			m.write(func() bool {
				return stream.Send(&inference.ModelStreamInferResponse{ErrorMessage: e.Error(), InferResponse: out}) == nil
			})
		}
		c.oneOfMany(m, "", failed, func(ctx context.Context, place *ipc.Place) {
			defer m.over("")
			if e := s.streamed(ctx, c, m, place, message, stream.Send); e != nil {
				failed(e)
			}
		})
	})
}

// streamed makes one request of a stream, and sends a response for each reply; one for a last reply that is empty only to clients that wish for it.
func (s inferer) streamed(ctx context.Context, c *grpcCall, m *multiplex, place *ipc.Place, message *inference.ModelInferRequest, send func(*inference.ModelStreamInferResponse) error) *ipc.Error {
	wish := message.GetParameters()[finalWish].GetBoolParam()
	in, req, e := s.request(ctx, c, message, place)
	if e != nil {
		return e
	}
	return ipc.AsError(c.replies(ctx, place, req, func(reply *ipc.Reply) error {
		if reply.End && reply.Empty() && !wish {
			return nil
		}
		out, e := c.inferResponse(place, in, message, reply)
		if e != nil {
			return e
		}
		if out.Parameters == nil {
			out.Parameters = map[string]*inference.InferParameter{}
		}
		out.Parameters[finalFlag] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: reply.End}}
		answer := &inference.ModelStreamInferResponse{InferResponse: out}
		size := int64(proto.Size(answer))
		if e := place.Add(size); e != nil {
			return e
		}
		defer place.Give(size)
		if !m.write(func() bool { return send(answer) == nil }) {
			return errNotTaken
		}
		return nil
	}))
}

// request makes a request of a message.
func (s inferer) request(ctx context.Context, c *grpcCall, m *inference.ModelInferRequest, place *ipc.Place) (*inferRequest, *ipc.Request, *ipc.Error) {
	in := &inferRequest{model: m.GetModelName(), version: m.GetModelVersion(), id: m.GetId()}
	if len(m.GetInputs()) > maxTensors || len(m.GetOutputs()) > maxTensors || len(m.GetParameters()) > maxTensors {
		return nil, nil, invalidInference("there are more than %d inputs, outputs or parameters", maxTensors)
	}
	raw := m.GetRawInputContents()
	if len(raw) > 0 && len(raw) != len(m.GetInputs()) {
		return nil, nil, invalidInference("there are %d raw_input_contents for %d inputs; there must be one for each, or none", len(raw), len(m.GetInputs()))
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetParameters())) {
		value, err := ipc.Marshal(parameterValue(m.GetParameters()[name]))
		if err != nil {
			return nil, nil, ipc.AsError(err)
		}
		in.parameters = append(in.parameters, parameter{name, value})
	}
	for _, o := range m.GetOutputs() {
		in.wanted = append(in.wanted, o.GetName())
	}
	for i, input := range m.GetInputs() {
		var data []byte
		if len(raw) > 0 {
			data = raw[i]
		}
		t, err := s.input(input, data, len(raw) > 0, place)
		var e *ipc.Error
		switch {
		case errors.As(err, &e):
			return nil, nil, e
		case err != nil:
			return nil, nil, invalidInference("inputs: element %d, %s: %v", i, outline([]byte(input.GetName())), err)
		}
		in.inputs = append(in.inputs, t)
	}
	req, e := c.infer(ctx, in, place)
	return in, req, e
}

// parameterValue is a parameter as [ipc.Marshal] takes it.
func parameterValue(p *inference.InferParameter) any {
	switch v := p.GetParameterChoice().(type) {
	case *inference.InferParameter_BoolParam:
		return v.BoolParam
	case *inference.InferParameter_Int64Param:
		return v.Int64Param
	case *inference.InferParameter_StringParam:
		return v.StringParam
	case *inference.InferParameter_DoubleParam:
		return v.DoubleParam
	case *inference.InferParameter_Uint64Param:
		return v.Uint64Param
	}
	return nil
}

// input reads one: raw, or from its contents.
func (s inferer) input(in *inference.ModelInferRequest_InferInputTensor, data []byte, raw bool, place *ipc.Place) (t inferTensor, _ error) {
	t = inferTensor{name: in.GetName(), datatype: in.GetDatatype()}
	switch {
	case t.name == "":
		return t, errors.New("it has no name")
	case t.datatype != textType && dtypes[t.datatype] == "":
		return t, fmt.Errorf("the datatype is %q; it must be one of the protocol's, such as FP32, or BYTES", outline([]byte(t.datatype)))
	case in.GetParameters()["shared_memory_region"] != nil:
		return t, ipc.Errorf(ipc.Unimplemented, "shared_memory", "%s lies in shared memory; send it in the message, or use Ringmaster's own clients, which share memory by themselves", outline([]byte(t.name)))
	case len(in.GetShape()) > maxRank:
		return t, fmt.Errorf("the shape has %d dimensions; %d are the most", len(in.GetShape()), maxRank)
	}
	for _, n := range in.GetShape() {
		if n < 0 {
			return t, fmt.Errorf("the shape is %v; its numbers must be 0 or more", in.GetShape())
		}
		t.shape = append(t.shape, uint64(n))
	}
	limit := uint64(s.web.srv.cfg.MaxMessage)
	count, fits := elements(t.shape, limit)
	if !fits {
		return t, tooLarge(int64(limit))
	}
	switch {
	case raw && in.GetContents() != nil && proto.Size(in.GetContents()) > 0:
		return t, errors.New("it has contents, and raw_input_contents")
	case raw:
		t.data = data
		return t, t.unpack(count, place)
	case t.datatype == textType:
		t.texts = in.GetContents().GetBytesContents()
		return t, counted(uint64(len(t.texts)), count)
	}
	var err error
	t.data, err = contentsOf(t.datatype, in.GetContents(), count, place)
	return t, err
}

// contentsOf are the elements of typed contents, as a tensor has them.
func contentsOf(datatype string, c *inference.InferTensorContents, count uint64, place *ipc.Place) ([]byte, error) {
	bits := bitsOf(datatype)
	pack := func(n int, at func(i int) (uint64, bool)) ([]byte, error) {
		if err := counted(uint64(n), count); err != nil {
			return nil, err
		}
		if e := place.Add(int64(n * bits / 8)); e != nil {
			return nil, e
		}
		data := make([]byte, 0, n*bits/8)
		for i := range n {
			v, fits := at(i)
			if !fits {
				return nil, fmt.Errorf("element %d is out of the range of %s", i, datatype)
			}
			data = appendBits(data, v, bits)
		}
		return data, nil
	}
	switch datatype {
	case "BOOL":
		v := c.GetBoolContents()
		return pack(len(v), func(i int) (uint64, bool) {
			if v[i] {
				return 1, true
			}
			return 0, true
		})
	case "INT8", "INT16", "INT32":
		v := c.GetIntContents()
		return pack(len(v), func(i int) (uint64, bool) {
			return uint64(v[i]), v[i]>>(bits-1) == 0 || v[i]>>(bits-1) == -1
		})
	case "UINT8", "UINT16", "UINT32":
		v := c.GetUintContents()
		return pack(len(v), func(i int) (uint64, bool) { return uint64(v[i]), uint64(v[i])>>bits == 0 })
	case "INT64":
		v := c.GetInt64Contents()
		return pack(len(v), func(i int) (uint64, bool) { return uint64(v[i]), true })
	case "UINT64":
		v := c.GetUint64Contents()
		return pack(len(v), func(i int) (uint64, bool) { return v[i], true })
	case "FP32":
		v := c.GetFp32Contents()
		return pack(len(v), func(i int) (uint64, bool) { return uint64(math.Float32bits(v[i])), true })
	case "FP64":
		v := c.GetFp64Contents()
		return pack(len(v), func(i int) (uint64, bool) { return math.Float64bits(v[i]), true })
	}
	return nil, fmt.Errorf("%s has no typed contents; send it in raw_input_contents", datatype)
}

// inferResponse makes a message of a reply: its outputs raw, unless the inputs came in typed contents. Its client pays.
func (x *exchange) inferResponse(place *ipc.Place, in *inferRequest, asked *inference.ModelInferRequest, reply *ipc.Reply) (*inference.ModelInferResponse, *ipc.Error) {
	out, e := x.inferred(place, in, reply)
	if e != nil {
		return nil, e
	}
	m := &inference.ModelInferResponse{ModelName: in.model, ModelVersion: onlyVersion, Id: in.id}
	for _, p := range out.parameters {
		value, err := parameterMessage(p.value)
		if err != nil {
			return nil, ipc.AsError(err)
		}
		if m.Parameters == nil {
			m.Parameters = map[string]*inference.InferParameter{}
		}
		m.Parameters[p.name] = value
	}
	raw := len(asked.GetInputs()) == 0 || len(asked.GetRawInputContents()) > 0
	size := 0
	for _, t := range out.outputs {
		raw = raw || t.datatype == "FP16" || t.datatype == "BF16" // which have no typed contents
		size += len(t.data)
		for _, text := range t.texts {
			size += len(text) + 4
		}
	}
	if e := place.Add(4 * int64(size)); e != nil { // bytes become numbers of four
		return nil, e
	}
	for _, t := range out.outputs {
		o := &inference.ModelInferResponse_InferOutputTensor{Name: t.name, Datatype: t.datatype}
		for _, n := range t.shape {
			o.Shape = append(o.Shape, int64(n))
		}
		switch {
		case !raw:
			o.Contents = typed(t)
		case t.datatype == textType:
			m.RawOutputContents = append(m.RawOutputContents, joinTexts(t.texts))
		default:
			m.RawOutputContents = append(m.RawOutputContents, t.data)
		}
		m.Outputs = append(m.Outputs, o)
	}
	return m, nil
}

// parameterMessage is a number or a boolean of a body.
func parameterMessage(value ipc.Body) (*inference.InferParameter, error) {
	var v any
	if err := value.Decode(&v); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case bool:
		return &inference.InferParameter{ParameterChoice: &inference.InferParameter_BoolParam{BoolParam: v}}, nil
	case float32:
		return &inference.InferParameter{ParameterChoice: &inference.InferParameter_DoubleParam{DoubleParam: float64(v)}}, nil
	case float64:
		return &inference.InferParameter{ParameterChoice: &inference.InferParameter_DoubleParam{DoubleParam: v}}, nil
	case uint64:
		if v > math.MaxInt64 {
			return &inference.InferParameter{ParameterChoice: &inference.InferParameter_Uint64Param{Uint64Param: v}}, nil
		}
	}
	var n int64
	if err := value.Decode(&n); err != nil {
		return nil, err
	}
	return &inference.InferParameter{ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: n}}, nil
}

// typed are an output's elements in the field for its datatype.
func typed(t inferTensor) *inference.InferTensorContents {
	c := &inference.InferTensorContents{BytesContents: t.texts}
	order, d := binary.LittleEndian, t.data
	n := 0
	if t.datatype != textType {
		n = len(d) * 8 / bitsOf(t.datatype)
	}
	for i := range n {
		switch t.datatype {
		case "BOOL":
			c.BoolContents = append(c.BoolContents, d[i] != 0)
		case "INT8":
			c.IntContents = append(c.IntContents, int32(int8(d[i])))
		case "INT16":
			c.IntContents = append(c.IntContents, int32(int16(order.Uint16(d[2*i:]))))
		case "INT32":
			c.IntContents = append(c.IntContents, int32(order.Uint32(d[4*i:])))
		case "UINT8":
			c.UintContents = append(c.UintContents, uint32(d[i]))
		case "UINT16":
			c.UintContents = append(c.UintContents, uint32(order.Uint16(d[2*i:])))
		case "UINT32":
			c.UintContents = append(c.UintContents, order.Uint32(d[4*i:]))
		case "INT64":
			c.Int64Contents = append(c.Int64Contents, int64(order.Uint64(d[8*i:])))
		case "UINT64":
			c.Uint64Contents = append(c.Uint64Contents, order.Uint64(d[8*i:]))
		case "FP32":
			c.Fp32Contents = append(c.Fp32Contents, math.Float32frombits(order.Uint32(d[4*i:])))
		case "FP64":
			c.Fp64Contents = append(c.Fp64Contents, math.Float64frombits(order.Uint64(d[8*i:])))
		}
	}
	return c
}
