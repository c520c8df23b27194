package ipc

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ringmasterd/ringmaster/shm"
)

// ClientHello opens a connection from the client's side: it says which versions this package speaks and returns the server's answer.
func ClientHello(s *Socket, sdk string) (*Hello, error) { return clientHello(s, sdk, 0) }

// ClientHelloRing is ClientHello of a client that would rather have a pair of rings, of up to capacity bytes each. If the server gives it one, everything else goes through that, and s
// belongs to it; otherwise the ring is nil, and s is used as it is.
//
// Preconditions: s is new.
func ClientHelloRing(s *Socket, sdk string, capacity uint64) (*Hello, *Ring, error) {
	rights := &rightsReader{}
	if !rights.watch(s) {
		hello, err := ClientHello(s, sdk)
		return hello, nil, err
	}
	defer rights.closeFirst()
	hello, err := clientHello(s, sdk, capacity)
	rights.done = true
	switch {
	case err != nil:
		return nil, nil, err
	case hello.Ring == 0:
		return hello, nil, nil
	}
	ring, err := openRing(rights, s, capacity)
	if err != nil {
		return nil, nil, err
	}
	return hello, ring, nil
}

// What a [Hello]'s Doors consist of: the bits of the segment's flags that say the same (docs/protocol.md, section 2). They keep the line, over which a goroutine would have to pass them on, free of the bells that matter.
const (
	DoorEventfd = 1 << 1 // the client wakes the server by an eventfd
	DoorSocket  = 1 << 2 // the server wakes the client by a socket of its own
)

func clientHello(s *Socket, sdk string, ring uint64) (*Hello, error) {
	mine := Hello{MinVersion: MinVersion, MaxVersion: MaxVersion, SDK: sdk, Ring: ring}
	if ring > 0 {
		mine.Doors = DoorEventfd | DoorSocket
	}
	if err := send(s, func(e *encoder) { e.hello(&mine) }); err != nil {
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

// ServerHello answers a client's hello with the highest common version and the server's limits: [ReadHello] and [AnswerHello] for a server without rings.
func ServerHello(s *Socket, mine Hello) (*Hello, error) {
	theirs, err := ReadHello(s)
	if err != nil {
		return nil, err
	}
	return theirs, AnswerHello(s, theirs, mine, nil)
}

// ReadHello receives a client's hello. It refuses a client that does not begin with one or speaks no common version, and says so to it; the connection is then to be closed.
func ReadHello(s *Socket) (*Hello, error) {
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
	if commonVersion(theirs) < max(theirs.MinVersion, MinVersion) {
		return nil, Refuse(s, Errorf(Unimplemented, "version",
			"no common protocol version: the client speaks %d to %d, this server %d to %d; update the older one",
			theirs.MinVersion, theirs.MaxVersion, MinVersion, MaxVersion))
	}
	return theirs, nil
}

// AnswerHello answers a client's hello, which [ReadHello] returned. If there is a segment with a bell, it goes with the answer, and everything else has to go through it: see [ServerRing].
//
// Preconditions: with a segment, theirs asks for rings, and nothing else was sent over s.
func AnswerHello(s *Socket, theirs *Hello, mine Hello, seg *shm.Segment) error {
	mine.MinVersion = commonVersion(theirs)
	mine.MaxVersion = mine.MinVersion
	var files []*os.File
	if seg != nil {
		mine.Ring = seg.Geometry().S2W
		for _, file := range []*os.File{seg.File(), seg.Eventfd(), seg.Socket()} {
			if file != nil {
				files = append(files, file)
			}
		}
	}
	e := newEncoder()
	defer e.free()
	e.hello(&mine)
	parts, _ := e.message()
	if err := s.sendWith(files, parts); err != nil {
		return err
	}
	if mine.MaxMessage > 0 {
		s.SetLimit(int(mine.MaxMessage))
	}
	return nil
}

func commonVersion(theirs *Hello) uint32 { return min(theirs.MaxVersion, MaxVersion) }

// SendHello is a worker's: it says that the worker is ready and what it can do.
func SendHello(t Transport, h Hello) error {
	return send(t, func(e *encoder) { e.hello(&h) })
}

// SendSignal sends a message that consists of its kind alone: [KindDrain] or [KindStop].
func SendSignal(t Transport, k Kind) error {
	return send(t, func(e *encoder) { e.signal(k) })
}

// EncodeAttach and EncodeDetach are what a worker is told of arenas, packet by packet.
func EncodeAttach(m Attach) []byte { return encode(func(e *encoder) { e.attach(&m) }) }

// EncodeDetach is [EncodeAttach]'s opposite.
func EncodeDetach(m Detach) []byte { return encode(func(e *encoder) { e.detach(m) }) }

// encode returns one message's bytes.
func encode(message func(*encoder)) []byte {
	e := newEncoder()
	defer e.free()
	message(e)
	parts, _ := e.message()
	return slices.Concat(parts...)
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
