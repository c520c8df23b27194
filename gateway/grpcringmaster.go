package gateway

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// ringmaster is the service ringmaster.v1.Ringmaster.
type ringmaster struct {
	ringmasterv1.UnimplementedRingmasterServer
}

// requestOf makes the request of a message.
func requestOf(in *ringmasterv1.CallRequest) (*ipc.Request, *ipc.Error) {
	req := &ipc.Request{Pool: in.GetPool(), Action: in.GetAction()}
	switch body := in.GetBody().(type) {
	case *ringmasterv1.CallRequest_Msgpack:
		req.Body = body.Msgpack
		if err := req.Body.Validate(); err != nil {
			return nil, ipc.AsError(err)
		}
	case *ringmasterv1.CallRequest_Json:
		var err error
		if req.Body, err = jsonbody.Decode([]byte(body.Json)); err != nil {
			return nil, ipc.Errorf(ipc.InvalidArgument, "bad_body", "json: %v", err)
		}
	}
	for _, t := range in.GetTensors() {
		req.Tensors = append(req.Tensors, ipc.Tensor{Name: t.GetName(), DType: t.GetDtype(), Shape: t.GetShape(), Data: t.GetData()})
		if err := req.Tensors[len(req.Tensors)-1].Validate(); err != nil {
			return nil, ipc.AsError(err)
		}
	}
	for name, value := range in.GetHeaders() {
		if req.Headers == nil {
			req.Headers = map[string]string{}
		}
		req.Headers[strings.ToLower(name)] = value
	}
	if in.GetTimeout() != nil {
		if req.Timeout = in.GetTimeout().AsDuration(); req.Timeout <= 0 {
			return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "timeout is %v; it must be more than 0", req.Timeout)
		}
	}
	req.TraceID = traceparent(in.GetTraceparent())
	return req, nil
}

// message makes a message of a reply, in the form in which the request came. Its client pays for it.
func (x *exchange) message(place *ipc.Place, in *ringmasterv1.CallRequest, reply *ipc.Reply) (*ringmasterv1.CallReply, *ipc.Error) {
	out := &ringmasterv1.CallReply{Headers: cleanMap(reply.Headers)}
	switch _, json := in.GetBody().(*ringmasterv1.CallRequest_Json); {
	case len(reply.Body) == 0:
	case json:
		if e := place.Add(jsonFactor * int64(len(reply.Body))); e != nil {
			return nil, e
		}
		defer place.Give(jsonFactor * int64(len(reply.Body)))
		b, err := jsonbody.Encode(reply.Body)
		if err != nil {
			return nil, ipc.AsError(err)
		}
		out.Body = &ringmasterv1.CallReply_Json{Json: string(b)}
	default:
		out.Body = &ringmasterv1.CallReply_Msgpack{Msgpack: reply.Body}
	}
	for _, t := range reply.Tensors {
		out.Tensors = append(out.Tensors, &ringmasterv1.Tensor{Name: clean(t.Name), Dtype: t.DType, Shape: t.Shape, Data: t.Data})
	}
	return out, nil
}

// Call implements [ringmasterv1.RingmasterServer].
func (ringmaster) Call(ctx context.Context, in *ringmasterv1.CallRequest) (*ringmasterv1.CallReply, error) {
	c := grpcCallOf(ctx)
	req, e := requestOf(in)
	if e != nil {
		return nil, e
	}
	reply, e := c.one(ctx, c.place, req)
	if e != nil {
		return nil, e
	}
	c.tell(reply)
	out, e := c.message(c.place, in, reply)
	if e != nil {
		return nil, e
	}
	return out, nil
}

// Stream implements [ringmasterv1.RingmasterServer].
func (ringmaster) Stream(in *ringmasterv1.CallRequest, out grpc.ServerStreamingServer[ringmasterv1.CallReply]) error {
	c := grpcCallOf(out.Context())
	req, e := requestOf(in)
	if e != nil {
		return e
	}
	return c.replies(out.Context(), c.place, req, func(reply *ipc.Reply) error {
		c.tell(reply)
		if reply.End && reply.Empty() {
			return nil
		}
		m, e := c.message(c.place, in, reply)
		if e != nil {
			return e
		}
		return out.Send(m)
	})
}

// replies makes a request and hands on each of its replies, until one is not taken.
func (x *exchange) replies(ctx context.Context, place *ipc.Place, req *ipc.Request, take func(*ipc.Reply) error) error {
	replies, ctx, done, err := x.call(ctx, place, req)
	defer done()
	for err == nil {
		var reply *ipc.Reply
		if reply, err = replies.Recv(ctx); err != nil {
			break
		}
		err = take(reply)
		switch {
		case reply.End:
			return err
		case err != nil:
			replies.Cancel(ipc.AsError(err).Reason)
		}
	}
	return err
}

// Converse implements [ringmasterv1.RingmasterServer].
func (ringmaster) Converse(stream grpc.BidiStreamingServer[ringmasterv1.ConverseRequest, ringmasterv1.ConverseReply]) error {
	c := grpcCallOf(stream.Context())
	return many(c, stream, func(m *multiplex, in *ringmasterv1.ConverseRequest) {
		name := strconv.FormatUint(in.GetId(), 10)
		refused := func(e *ipc.Error) {
			m.write(func() bool { return stream.Send(conversed(in.GetId(), e)) == nil })
		}
		switch what := in.GetWhat().(type) {
		case *ringmasterv1.ConverseRequest_Cancel:
			m.cancel(name)
		case *ringmasterv1.ConverseRequest_Call:
			c.oneOfMany(m, name, refused, func(ctx context.Context, place *ipc.Place) {
				c.converse(ctx, m, place, name, in.GetId(), what.Call, stream.Send)
			})
		default:
			refused(ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the message has neither call nor cancel"))
		}
	})
}

// converse makes one of many requests.
func (x *exchange) converse(ctx context.Context, m *multiplex, place *ipc.Place, name string, id uint64, in *ringmasterv1.CallRequest, send func(*ringmasterv1.ConverseReply) error) {
	say := func(out *ringmasterv1.ConverseReply) bool { return m.write(func() bool { return send(out) == nil }) }
	req, e := requestOf(in)
	if e != nil {
		m.over(name)
		say(conversed(id, e))
		return
	}
	ended := false
	err := x.replies(ctx, place, req, func(reply *ipc.Reply) error {
		message, e := x.message(place, in, reply)
		if e != nil {
			return e
		}
		out := &ringmasterv1.ConverseReply{Id: id, What: &ringmasterv1.ConverseReply_Chunk{Chunk: message}}
		if reply.End {
			out.What = &ringmasterv1.ConverseReply_End{End: message}
		}
		size := int64(proto.Size(out))
		if e := place.Add(size); e != nil {
			return e
		}
		defer place.Give(size)
		if reply.End {
			ended = true
			m.over(name)
		}
		if !say(out) {
			return errNotTaken
		}
		return nil
	})
	if !ended {
		m.over(name)
		say(conversed(id, ipc.AsError(err)))
	}
}

// conversed is the end of a request that failed.
func conversed(id uint64, e *ipc.Error) *ringmasterv1.ConverseReply {
	out := &ringmasterv1.Error{Code: clean(string(e.Code)), Reason: clean(e.Reason), Message: clean(e.Message), Details: cleanMap(e.Details)}
	if e.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(e.RetryAfter)
	}
	return &ringmasterv1.ConverseReply{Id: id, What: &ringmasterv1.ConverseReply_Error{Error: out}}
}

func cleanMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for key, value := range m {
		out[clean(key)] = clean(value)
	}
	return out
}

// Status implements [ringmasterv1.RingmasterServer].
func (ringmaster) Status(ctx context.Context, _ *ringmasterv1.StatusRequest) (*ringmasterv1.StatusReply, error) {
	var status struct {
		Version string  `msgpack:"version"`
		UptimeS float64 `msgpack:"uptime_s"`
		Pools   []struct {
			Name     string   `msgpack:"name"`
			State    string   `msgpack:"state"`
			Queued   uint32   `msgpack:"queued"`
			InFlight uint32   `msgpack:"in_flight"`
			Actions  []string `msgpack:"actions"`
			Workers  []struct {
				Slot     uint32  `msgpack:"slot"`
				PID      int32   `msgpack:"pid"`
				State    string  `msgpack:"state"`
				InFlight uint32  `msgpack:"in_flight"`
				Restarts uint64  `msgpack:"restarts"`
				Requests uint64  `msgpack:"requests"`
				RSSBytes uint64  `msgpack:"rss_bytes"`
				UptimeS  float64 `msgpack:"uptime_s"`
			} `msgpack:"workers"`
		} `msgpack:"pools"`
	}
	if e := grpcCallOf(ctx).controlled(ctx, "status", "", &status); e != nil {
		return nil, e
	}
	out := &ringmasterv1.StatusReply{Version: status.Version, Uptime: seconds(status.UptimeS)}
	for _, p := range status.Pools {
		pool := &ringmasterv1.Pool{Name: p.Name, State: p.State, Queued: p.Queued, InFlight: p.InFlight, Actions: p.Actions}
		for _, w := range p.Workers {
			pool.Workers = append(pool.Workers, &ringmasterv1.Worker{
				Slot: w.Slot, Pid: w.PID, State: w.State, InFlight: w.InFlight, Restarts: w.Restarts, Requests: w.Requests, RssBytes: w.RSSBytes, Uptime: seconds(w.UptimeS),
			})
		}
		out.Pools = append(out.Pools, pool)
	}
	return out, nil
}

func seconds(s float64) *durationpb.Duration {
	return durationpb.New(time.Duration(s * float64(time.Second)))
}
