package chaos

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// serverOf serves one connection of a socket with its bare hands: serve is given each request.
func serverOf(t *testing.T, serve func(sock *ipc.Socket, req *ipc.Request)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		sock := ipc.NewSocket(raw, ipc.DefaultMaxMessage, 0)
		if _, err := ipc.ServerHello(sock, ipc.Hello{SDK: "test"}); err != nil {
			t.Error(err)
			return
		}
		for {
			b, err := sock.Recv()
			if err != nil {
				return
			}
			m, err := ipc.Decode(b)
			if err != nil {
				t.Error(err)
				return
			}
			switch m := m.(type) {
			case *ipc.Request:
				serve(sock, m)
			case ipc.Ping:
				_, _ = sock.Send([]byte{0x93, 8, byte(m.ID), 1})
			}
		}
	})
	return socket
}

// A wire request to a server that is of no help.
func askWire(t *testing.T, serve func(*ipc.Socket, *ipc.Request)) (found []string, err error) {
	t.Helper()
	var mu sync.Mutex
	w, err := dialWire(t.Context(), serverOf(t, serve), func(what string) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, what)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bound = 50 * time.Millisecond
	r := newTransform(id{}, wide, 0, nil)
	r.req.Timeout = 10 * time.Millisecond
	err = w.ask(context.Background(), &r.req, false, func(*ipc.Reply) error { return nil })
	if err == nil { // what is sent after it is looked at as well
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := w.caller.Ping(ctx); err != nil {
			t.Error(err)
		}
	}
	w.close()
	return found, err
}

// end is an END reply without anything.
func end(id uint64) []byte { return []byte{0x93, 2, byte(id), 1} }

func TestMissingAnswerIsSeen(t *testing.T) {
	found, err := askWire(t, func(*ipc.Socket, *ipc.Request) {})
	if !errors.Is(err, errUnanswered) || len(found) > 0 {
		t.Errorf("%v, %q", err, found)
	}
}

func TestSecondAnswerIsSeen(t *testing.T) {
	found, err := askWire(t, func(sock *ipc.Socket, req *ipc.Request) {
		_, _ = sock.Send(end(req.ID))
		_, _ = sock.Send(end(req.ID))
	})
	if err != nil || len(found) != 1 || !strings.Contains(found[0], "duplicated: one more reply came to request 1") {
		t.Errorf("%v, %q", err, found)
	}
}

func TestAnswerToNobodyIsSeen(t *testing.T) {
	found, err := askWire(t, func(sock *ipc.Socket, req *ipc.Request) {
		_, _ = sock.Send(end(9))
		_, _ = sock.Send(end(req.ID))
	})
	if err != nil || len(found) != 1 || !strings.Contains(found[0], "request 9 of a connection, which was never sent") {
		t.Errorf("%v, %q", err, found)
	}
}
