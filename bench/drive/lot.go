package drive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ringmasterd/ringmaster/client"
)

// lot is an arena of each connection, in which the payloads of a row lie and their answers are written, as an app does that makes its tensors there.
type lot struct {
	clients []*client.Client
	arenas  []*client.Arena
	next    atomic.Int64 // payloads made
	places  sync.Map     // of *byte, where a payload begins → place
}

// place is where a payload lies, and whose connection can name it.
type place struct {
	client *client.Client
	slot   client.Tensor // for its answer
}

// newLot asks for arenas that hold so many payloads and answers.
func newLot(ctx context.Context, clients []*client.Client, size, outstanding int) (*lot, error) {
	l := &lot{clients: clients}
	each := (outstanding + len(clients) - 1) / len(clients)
	const align = 64
	bytes := 2 * each * ((size + align - 1) &^ (align - 1))
	for _, c := range clients {
		a, err := c.Arena(ctx, bytes)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--arena: %d payloads and answers of %s on a connection: %w", each, Size(size), err), l.close())
		}
		l.arenas = append(l.arenas, a)
	}
	return l, nil
}

// memory makes a payload's, and room for its answer.
func (l *lot) memory(size int) []byte {
	i := int(l.next.Add(1)-1) % len(l.arenas)
	in, err := l.arenas[i].Tensor("x", "uint8", uint64(size))
	if err == nil {
		var slot client.Tensor
		if slot, err = l.arenas[i].Tensor("x", "uint8", uint64(size)); err == nil {
			l.places.Store(&in.Data[0], place{l.clients[i], slot})
			return in.Data
		}
	}
	payload := make([]byte, size) // the connection is gone, and so will be the requests
	l.places.Store(&payload[0], place{client: l.clients[i]})
	return payload
}

// find returns where a payload lies.
func (l *lot) find(payload []byte) place {
	p, _ := l.places.Load(&payload[0])
	return p.(place)
}

// close gives the arenas back. Preconditions: no request is under way.
func (l *lot) close() error {
	var errs []error
	for _, a := range l.arenas {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}
