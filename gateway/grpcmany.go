package gateway

import (
	"context"
	"errors"
	"io"

	"github.com/ringmasterd/ringmaster/ipc"
)

// receiver is what generated code receives messages by.
type receiver[In any] interface {
	Context() context.Context
	Recv() (*In, error)
}

// many serves a call of gRPC whose client sends requests one after the other: it hands each message to take until there are no more, and returns when what they have begun has ended.
func many[In any](c *grpcCall, stream receiver[In], take func(*multiplex, *In)) error {
	m := c.multiplex(stream.Context())
	for {
		in, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			m.finish(nil)
			return nil
		case err != nil:
			m.finish(unlessDraining(err))
			return err
		}
		take(m, in)
	}
}

// unlessDraining is why requests that are open are to be cancelled: not because no more will come.
func unlessDraining(err error) error {
	if errors.Is(err, errDraining) {
		return nil
	}
	return err
}

// oneOfMany runs the request of the message that was received last, which leaves its place when it returns, or says that it is refused. run has to call over for the name.
func (c *grpcCall) oneOfMany(m *multiplex, name string, refused func(*ipc.Error), run func(context.Context, *ipc.Place)) {
	place := c.takePlace()
	if e := m.start(name, func(ctx context.Context) {
		defer place.Leave()
		run(ctx, place)
	}); e != nil {
		place.Leave()
		refused(e)
	}
}
