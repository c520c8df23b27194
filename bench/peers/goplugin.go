package main

import (
	"context"
	"os/exec"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// A plugin as go-plugin's users have it: the app starts it and talks to it over gRPC on a Unix socket, one hop. The codec is the control's.

var handshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PEERS_PLUGIN", MagicCookieValue: "peers"}

// workPlugin is both halves.
type workPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (workPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(grpcService(), handler(work))
	return nil
}

func (workPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return viaGRPC{conn}, nil
}

// servePlugin is a plugin process.
func servePlugin() {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake, Plugins: plugin.PluginSet{"work": workPlugin{}}, Logger: hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpcServerOptions()...)...)
		},
	})
}

// viaPlugin calls the plugin that it has started.
type viaPlugin struct {
	viaGRPC
	client *plugin.Client
}

func startPlugin() (caller, error) {
	c := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: handshake, Plugins: plugin.PluginSet{"work": workPlugin{}}, Cmd: exec.Command("/proc/self/exe", "plugin"),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}, Logger: hclog.NewNullLogger(),
	})
	protocol, err := c.Client()
	if err != nil {
		c.Kill()
		return nil, err
	}
	v, err := protocol.Dispense("work")
	if err != nil {
		c.Kill()
		return nil, err
	}
	return viaPlugin{v.(viaGRPC), c}, nil
}

func (v viaPlugin) close() error {
	v.client.Kill()
	return nil
}
