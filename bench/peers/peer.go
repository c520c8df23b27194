package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/ringmasterd/ringmaster/client"
)

// caller sends a payload to the worker and returns what the worker answered. Any number of goroutines call it at a time.
type caller interface {
	call(ctx context.Context, action string, payload []byte) ([]byte, error)
	close() error
}

// wire is one way of a request over a Unix socket.
type wire struct {
	serve func(socket string, h handler) (stop func(), err error)
	dial  func(ctx context.Context, socket string) (caller, error)
}

// peer is one transport.
type peer struct {
	name   string
	hops   int    // sockets, pipes or rings between client and worker, one way
	server bool   // there is a process in the middle
	python bool   // its workers are Python processes; so is its client
	wire   *wire  // of both hops, if it is relayed by relay.go
	needs  string // the Python package without which it cannot run
}

// control is the transport that those in Go are compared with, pythonControl is for those in Python.
const (
	control       = "grpc-uds"
	pythonControl = "mp-pool"
)

// peers are measured one after the other in every cell.
var peers = []peer{
	{name: "ringmaster", hops: 2, server: true},
	{name: "ringmaster-socket", hops: 2, server: true},
	{name: "ringmaster-arena", hops: 2, server: true},
	{name: "ringmaster-embedded", hops: 1},
	{name: control, hops: 2, server: true, wire: &wire{serveGRPC, dialGRPC}},
	{name: "uds-msgpack", hops: 2, server: true, wire: &wire{serveMsgpack, dialMsgpack}},
	{name: "netrpc-uds", hops: 2, server: true, wire: &wire{serveNetRPC, dialNetRPC}},
	{name: "zmq", hops: 2, server: true, wire: &wire{serveZMQ, dialZMQ}},
	{name: "goplugin-grpc", hops: 1},
	{name: "ringmaster", hops: 2, server: true, python: true, needs: "ringmaster"},
	{name: pythonControl, hops: 1, python: true, needs: "numpy"},
	{name: "mosec", hops: 2, server: true, python: true, needs: "mosec"},
	{name: "litserve", hops: 2, server: true, python: true, needs: "litserve"},
	{name: "ray-serve", hops: 2, server: true, python: true, needs: "ray"},
	{name: "triton", hops: 2, server: true, python: true, needs: "pytriton"},
}

// applies reports whether a transport is measured in a cell: an app that holds the workers itself has no clients, and how cost grows is a question to ourselves.
func (p *peer) applies(c cell) bool {
	if p.name == "ringmaster-arena" && c.Size < 64<<10 {
		return false // it would travel in the message
	}
	if c.Connections > 0 {
		return p.name == "ringmaster" && !p.python
	}
	return p.python == strings.HasPrefix(c.Scenario, "python-") && (p.server || c.Clients == 0)
}

func wireOf(transport string) (*wire, error) {
	for i := range peers {
		if peers[i].name == transport && peers[i].wire != nil {
			return peers[i].wire, nil
		}
	}
	return nil, fmt.Errorf("there is no wire %q", transport)
}

func dial(ctx context.Context, transport, socket string) (caller, error) {
	switch transport {
	case "ringmaster":
		return dialRingmaster(ctx, socket)
	case "ringmaster-socket":
		return dialRingmaster(ctx, socket, client.WithRing(0))
	case "ringmaster-arena":
		return dialArena(ctx, socket)
	case "ringmaster-embedded":
		return startEmbedded(ctx)
	case "goplugin-grpc":
		return startPlugin()
	}
	w, err := wireOf(transport)
	if err != nil {
		return nil, err
	}
	return w.dial(ctx, socket)
}
