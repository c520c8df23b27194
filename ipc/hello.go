package ipc

import (
	"errors"
	"fmt"
)

// ClientHello opens a connection from the client's side: it says which versions this package speaks and returns the server's answer.
func ClientHello(s *Socket, sdk string) (*Hello, error) {
	if err := send(s, func(e *encoder) {
		e.hello(&Hello{MinVersion: MinVersion, MaxVersion: MaxVersion, SDK: sdk})
	}); err != nil {
		return nil, err
	}
	b, err := s.Recv()
	if err != nil {
		return nil, fmt.Errorf("read the server's hello: %w", err)
	}
	switch m, err := Decode(b); m := m.(type) {
	case *Hello:
		if m.MinVersion < MinVersion || m.MinVersion > MaxVersion {
			return nil, Errorf(Unimplemented, "version", "the server chose protocol version %d, this client speaks %d to %d; update the older one", m.MinVersion, MinVersion, MaxVersion)
		}
		if m.MaxMessage > 0 {
			s.SetLimit(int(min(m.MaxMessage, 1<<31)))
		}
		return m, nil
	case *Reply:
		if m.Err != nil {
			return nil, m.Err
		}
		return nil, protocolErrorf("a reply came before the server's hello")
	default:
		return nil, errors.Join(protocolErrorf("the server's first message is not a hello"), err)
	}
}

// ServerHello answers a client's hello with the highest common version and the server's limits. It refuses a client that does not begin with a hello or speaks no common
// version, and says so to it; the connection is then to be closed.
func ServerHello(s *Socket, mine Hello) (*Hello, error) {
	b, err := s.Recv()
	var skipped *SkippedError
	switch {
	case errors.As(err, &skipped):
		return nil, Refuse(s, Errorf(InvalidArgument, "bad_message", "the first frame is %d bytes, a hello is at most %d; see docs/protocol.md, section 7", skipped.Size, s.limit.Load()))
	case err != nil:
		return nil, err
	}
	m, err := Decode(b)
	theirs, ok := m.(*Hello)
	if !ok {
		refusal := Errorf(InvalidArgument, "bad_message", "the first frame on a connection must be a hello; see docs/protocol.md, section 7")
		if err != nil {
			refusal = AsError(err)
		}
		return nil, Refuse(s, refusal)
	}
	version := min(theirs.MaxVersion, MaxVersion)
	if version < max(theirs.MinVersion, MinVersion) {
		return nil, Refuse(s, Errorf(Unimplemented, "version",
			"no common protocol version: the client speaks %d to %d, this server %d to %d; update the older one",
			theirs.MinVersion, theirs.MaxVersion, MinVersion, MaxVersion))
	}
	mine.MinVersion, mine.MaxVersion = version, version
	if err := send(s, func(e *encoder) { e.hello(&mine) }); err != nil {
		return nil, err
	}
	if mine.MaxMessage > 0 {
		s.SetLimit(int(mine.MaxMessage))
	}
	return theirs, nil
}

// SendHello is a worker's: it says that the worker is ready and what it can do.
func SendHello(t Transport, h Hello) error {
	return send(t, func(e *encoder) { e.hello(&h) })
}

// SendSignal sends a message that consists of its kind alone: [KindDrain] or [KindStop].
func SendSignal(t Transport, k Kind) error {
	return send(t, func(e *encoder) { e.signal(k) })
}

// Refuse tells a peer why its connection ends, as a reply with id 0, and returns the refusal. The connection is then to be closed.
func Refuse(t Transport, refusal *Error) error {
	_ = send(t, func(e *encoder) { e.reply(&Reply{End: true, Err: refusal}) })
	flush(t)
	return refusal
}

// send encodes one message and sends it.
func send(t Transport, encode func(*encoder)) error {
	e := newEncoder()
	defer e.free()
	encode(e)
	parts, _ := e.message()
	_, err := t.Send(parts...)
	return err
}
