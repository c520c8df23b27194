package worker

import (
	"context"
	"time"
)

// count sends body.n chunks {"i": 0}, {"i": 1}, … with body.delay_ms before each, and body.text in each if there is one.
func count(ctx context.Context, req *Request, send func(*Reply) error) error {
	a := parseArgs(req, `{"n": 3}`)
	n := a.integer("n", 0, 0, 1_000_000_000)
	delay := time.Duration(a.number("delay_ms", 0, 3_600_000) * float64(time.Millisecond))
	text := a.text("text")
	if a.err != nil {
		return a.err
	}
	for i := range n {
		if delay > 0 {
			if err := pause(ctx, delay); err != nil {
				return err
			}
		}
		if err := send(&Reply{Body: countChunk{i, text}}); err != nil {
			return err
		}
	}
	return nil
}

type countChunk struct {
	I    int    `msgpack:"i"`
	Text string `msgpack:"text,omitempty"`
}
