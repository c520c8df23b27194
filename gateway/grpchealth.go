package gateway

import (
	"context"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ringmasterd/ringmaster/ipc"
)

// healthPause is how often a watcher's pool is asked.
const healthPause = time.Second

// grpcHealth is the service grpc.health.v1.Health. A pool is a service; the services of gRPC itself, and "", are the server, which serves while every pool does.
type grpcHealth struct {
	healthpb.UnimplementedHealthServer
	front *grpcFront
}

// pools asks how pools are: one, or all of them for "".
func (x *exchange) pools(ctx context.Context, name string) (map[string]bool, *ipc.Error) {
	var health struct {
		Pools []struct {
			Name string `msgpack:"name"`
			OK   bool   `msgpack:"ok"`
		} `msgpack:"pools"`
	}
	if e := x.controlled(ctx, "health", name, &health); e != nil {
		return nil, e
	}
	all := map[string]bool{}
	for _, p := range health.Pools {
		all[p.Name] = p.OK
	}
	return all, nil
}

// serving asks how a service is.
func (h grpcHealth) serving(ctx context.Context, service string) (healthpb.HealthCheckResponse_ServingStatus, *ipc.Error) {
	if h.front.services[service] != nil {
		service = ""
	}
	pools, e := grpcCallOf(ctx).pools(ctx, service)
	if e != nil {
		return healthpb.HealthCheckResponse_UNKNOWN, e
	}
	return servingIf(every(pools)), nil
}

func servingIf(ok bool) healthpb.HealthCheckResponse_ServingStatus {
	if ok {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}

func every(pools map[string]bool) bool {
	for _, ok := range pools {
		if !ok {
			return false
		}
	}
	return true
}

// Check implements [healthpb.HealthServer].
func (h grpcHealth) Check(ctx context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	status, e := h.serving(ctx, in.GetService())
	if e != nil {
		return nil, e
	}
	return &healthpb.HealthCheckResponse{Status: status}, nil
}

// List implements [healthpb.HealthServer].
func (h grpcHealth) List(ctx context.Context, _ *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	pools, e := grpcCallOf(ctx).pools(ctx, "")
	if e != nil {
		return nil, e
	}
	out := &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: servingIf(every(pools))}}}
	for name, ok := range pools {
		out.Statuses[name] = &healthpb.HealthCheckResponse{Status: servingIf(ok)}
	}
	return out, nil
}

// Watch implements [healthpb.HealthServer]. It ends when the server drains.
func (h grpcHealth) Watch(in *healthpb.HealthCheckRequest, out grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := out.Context()
	pause := time.NewTicker(healthPause)
	defer pause.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		now, e := h.serving(ctx, in.GetService())
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case e != nil && e.Code == ipc.NotFound:
			now = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		case e != nil:
			return e
		}
		if now != last {
			if err := out.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-h.front.web.srv.leaving:
			return errDraining
		}
	}
}
