package main

import (
	"context"
	"net"
	"net/rpc"
	"sync"
)

// net/rpc with its own codec, gob, over one connection per hop.

// RPCRequest is what is asked.
type RPCRequest struct {
	Action  string
	Payload []byte
}

// rpcService is registered under the name Work.
type rpcService struct{ h handler }

// Do answers a request.
func (s *rpcService) Do(in *RPCRequest, out *[]byte) (err error) {
	*out, err = s.h(context.Background(), in.Action, in.Payload)
	return err
}

func serveNetRPC(socket string, h handler) (stop func(), err error) {
	s := rpc.NewServer()
	if err := s.RegisterName("Work", &rpcService{h}); err != nil {
		return nil, err
	}
	return acceptLoop(socket, func(c net.Conn) { s.ServeConn(c) })
}

// acceptLoop serves each connection on a goroutine of its own.
func acceptLoop(socket string, serve func(net.Conn)) (stop func(), err error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	stopped := false
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if stopped {
				c.Close()
			}
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	return func() {
		ln.Close()
		mu.Lock()
		stopped = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	}, nil
}

type viaNetRPC struct{ c *rpc.Client }

func dialNetRPC(_ context.Context, socket string) (caller, error) {
	c, err := rpc.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return viaNetRPC{c}, nil
}

func (v viaNetRPC) call(_ context.Context, action string, payload []byte) (out []byte, err error) {
	err = v.c.Call("Work.Do", &RPCRequest{action, payload}, &out)
	return out, err
}

func (v viaNetRPC) close() error { return v.c.Close() }
