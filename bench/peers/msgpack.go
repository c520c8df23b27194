package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// What people write by hand: a length and a MessagePack message on a Unix socket, requests told apart by a number, one connection per hop.

type packet struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       uint64
	Action   string
	Payload  []byte
	Error    string
}

// packetConn is one end of a connection.
type packetConn struct {
	c  net.Conn
	r  *bufio.Reader
	mu sync.Mutex // one writer at a time
}

func newPacketConn(c net.Conn) *packetConn {
	return &packetConn{c: c, r: bufio.NewReaderSize(c, 64<<10)}
}

func (p *packetConn) send(m *packet) error {
	b, err := msgpack.Marshal(m)
	if err != nil {
		return err
	}
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(b)))
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = (&net.Buffers{head[:], b}).WriteTo(p.c)
	return err
}

func (p *packetConn) receive() (*packet, error) {
	var head [4]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, errors.New("the message is too long")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.r, b); err != nil {
		return nil, err
	}
	m := &packet{}
	return m, msgpack.Unmarshal(b, m)
}

func serveMsgpack(socket string, h handler) (stop func(), err error) {
	return acceptLoop(socket, func(c net.Conn) {
		p := newPacketConn(c)
		var requests sync.WaitGroup
		defer requests.Wait()
		for {
			m, err := p.receive()
			if err != nil {
				return
			}
			requests.Go(func() {
				payload, err := h(context.Background(), m.Action, m.Payload)
				reply := &packet{ID: m.ID, Payload: payload}
				if err != nil {
					reply.Error = err.Error()
				}
				_ = p.send(reply)
			})
		}
	})
}

// viaMsgpack is a connection on which any number of requests are under way.
type viaMsgpack struct {
	p     *packetConn
	ended chan struct{} // closed when nothing is received any more

	mu      sync.Mutex
	last    uint64                  // guarded by mu
	waiting map[uint64]chan *packet // guarded by mu
}

func dialMsgpack(_ context.Context, socket string) (caller, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	v := &viaMsgpack{p: newPacketConn(c), ended: make(chan struct{}), waiting: map[uint64]chan *packet{}}
	go v.receive()
	return v, nil
}

func (v *viaMsgpack) receive() {
	defer close(v.ended)
	for {
		m, err := v.p.receive()
		if err != nil {
			return
		}
		v.mu.Lock()
		to := v.waiting[m.ID]
		delete(v.waiting, m.ID)
		v.mu.Unlock()
		if to != nil {
			to <- m
		}
	}
}

func (v *viaMsgpack) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	reply := make(chan *packet, 1)
	v.mu.Lock()
	v.last++
	id := v.last
	v.waiting[id] = reply
	v.mu.Unlock()
	if err := v.p.send(&packet{ID: id, Action: action, Payload: payload}); err != nil {
		return nil, err
	}
	select {
	case m := <-reply:
		if m.Error != "" {
			return nil, errors.New(m.Error)
		}
		return m.Payload, nil
	case <-v.ended:
		return nil, io.ErrUnexpectedEOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *viaMsgpack) close() error {
	err := v.p.c.Close()
	<-v.ended
	return err
}
