package gateway

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// Whatever a client sends after its hello, the server closes the connection once the client has, and goes on serving others.
func FuzzFrames(f *testing.F) {
	f.Add(frame(0x94, 1, 9, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o'))
	f.Add(append(frame(0x94, 1, 9, 0xa1, 'p', 0xa6, 's', 't', 'r', 'e', 'a', 'm'), frame(0x93, 4, 9, 5)...))
	f.Add(append(frame(0x94, 1, 9, 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k'), frame(0x92, 3, 9)...))
	f.Add(append(frame(0x92, 8, 1), frame(0xdd, 0xff, 0xff, 0xff, 0xff)...))
	f.Add(hello)
	s := start(f, newFake(), Config{MaxMessage: 1 << 16})
	neighbour := dial(f, s.path)
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := connect(t, s.path).(*net.UnixConn)
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write(append(bytes.Clone(hello), sent...))
		_ = conn.CloseWrite()
		await(t, read, "the server to hang up")
		_ = conn.Close()
		neighbour.echo(t)
	})
}

// Whatever a client sends, with or without a hello, whole frames or half ones, at once or in two parts: the server closes the connection once the client has, and goes on serving others.
func FuzzBytes(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add(hello, uint16(3))
	f.Add(hello[:len(hello)-1], uint16(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(2))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), uint16(5))
	f.Add(append(bytes.Clone(hello), frame(0x94, 1, 9, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o')[:7]...), uint16(len(hello)+2))
	f.Add(append(bytes.Clone(hello), bytes.Repeat(frame(0x94, 1, 9, 0xa1, 'p', 0xa5, 'b', 'l', 'o', 'c', 'k'), 100)...), uint16(9))
	s := start(f, newFake(), Config{MaxMessage: 1 << 16, MaxInFlight: 16})
	neighbour := dial(f, s.path)
	f.Fuzz(func(t *testing.T, sent []byte, split uint16) {
		conn := connect(t, s.path).(*net.UnixConn)
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, conn)
		}()
		first := min(int(split), len(sent))
		_, _ = conn.Write(sent[:first])
		neighbour.echo(t)
		_, _ = conn.Write(sent[first:])
		_ = conn.CloseWrite()
		await(t, read, "the server to hang up")
		_ = conn.Close()
		neighbour.echo(t)
	})
}
