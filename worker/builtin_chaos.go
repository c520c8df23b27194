package worker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/ringmasterd/ringmaster/internal/proof"
	"github.com/ringmasterd/ringmaster/ipc"
)

// LedgerVariable names the file to which the chaos actions append one line for each time that they run: the request's nonce, the slot, the process.
const LedgerVariable = "RINGMASTER_CHAOS_LEDGER"

// chaosActions are for `ringmaster bench --chaos`: beside the other builtins there are actions whose answers prove that they are right, and worse ways to misbehave.
// They are a set of their own, so that no pool serves them by accident.
func chaosActions() Actions {
	actions := maps.Clone(builtins)
	maps.Copy(actions, Actions{
		"hang":      {Unary: hangOnRecord},
		"lie":       {Unary: lie},
		"once":      {Unary: transform},
		"poison":    {Unary: crash, Idempotent: true},
		"raise":     {Unary: raise},
		"stream":    {Stream: stream, Idempotent: true},
		"transform": {Unary: transform, Idempotent: true},
	})
	return actions
}

// chaosAnswer is what transform and once answer beside the tensors.
type chaosAnswer struct {
	Nonce string `msgpack:"nonce"`
	Sum   string `msgpack:"sum"`
	Data  []byte `msgpack:"data"` // the request's, reversed
	Slot  string `msgpack:"slot"`
	PID   int    `msgpack:"pid"`
}

// transform answers with a function of all that it was sent, see package proof, after body.ms milliseconds. once is the same, but says of itself that it must not be run twice. Where the requester has set memory aside for the
// answer, it is written to from the first moment to the last: nonsense before the wait, and the answer after it. body.late says that the action is to go on, and write, although nobody waits any more.
func transform(ctx context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"nonce": "0000000000000001", "ms": 5, "late": false, "data": "…"}`)
	nonce := a.text("nonce")
	wait := time.Duration(a.number("ms", 0, 60_000) * float64(time.Millisecond))
	data, _ := a.body["data"].([]byte)
	late, _ := a.body["late"].(bool)
	if a.err != nil {
		return nil, a.err
	}
	if err := record(nonce); err != nil {
		return nil, err
	}
	answers, err := outputs(req)
	if err != nil {
		return nil, err
	}
	if late {
		ctx = context.WithoutCancel(ctx)
	}
	if err := pause(ctx, wait); err != nil {
		return nil, err
	}
	sum := proof.Sum(nonce, data, req.Tensors)
	slices.Reverse(data)
	reply := &Reply{Body: chaosAnswer{Nonce: nonce, Sum: sum, Data: data, Slot: os.Getenv(ipc.SlotVariable), PID: os.Getpid()}, Tensors: answers}
	mask := proof.Mask(nonce)
	for i, t := range req.Tensors {
		proof.MixInto(answers[i].Data, t.Data, mask)
	}
	return reply, nil
}

// nonsense is what an answer's memory is full of until the answer is there.
const nonsense = 0xee

// outputs makes the tensors of an answer, like those of the request, where the requester would like them.
func outputs(req *Request) ([]ipc.Tensor, error) {
	var answers []ipc.Tensor
	for _, t := range req.Tensors {
		answer, err := req.Output(t.Name, t.DType, t.Shape...)
		if err != nil {
			return nil, err
		}
		for i := range answer.Data {
			answer.Data[i] = nonsense
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// chaosChunk is one chunk of a stream.
type chaosChunk struct {
	Nonce string `msgpack:"nonce"`
	Seq   int    `msgpack:"seq"`
	Sum   string `msgpack:"sum"`
	Data  []byte `msgpack:"data"`
}

// stream sends body.n chunks of body.size bytes, each with its number and the checksum of all there has been, and waits for body.ms milliseconds, or 1, before each.
func stream(ctx context.Context, req *Request, send func(*Reply) error) error {
	a := parseArgs(req, `{"nonce": "0000000000000001", "n": 3, "size": 100, "ms": 1}`)
	nonce := a.text("nonce")
	n := a.integer("n", 0, 0, 1_000_000)
	size := a.integer("size", 1, 1, 16<<20)
	wait := time.Duration(a.number("ms", 1, 60_000) * float64(time.Millisecond))
	if a.err != nil {
		return a.err
	}
	if err := record(nonce); err != nil {
		return err
	}
	chain := proof.NewChain(nonce)
	for i := range n {
		if err := pause(ctx, wait); err != nil {
			return err
		}
		data, sum := chain.Next(size)
		if err := send(&Reply{Body: chaosChunk{Nonce: nonce, Seq: i, Sum: sum, Data: data}}); err != nil {
			return err
		}
	}
	return nil
}

// hangOnRecord is hang: whoever waited for it to no avail can look whether it has run.
func hangOnRecord(ctx context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"nonce": "0000000000000001", "how": "block"}`)
	nonce := a.text("nonce")
	if a.err != nil {
		return nil, a.err
	}
	if err := record(nonce); err != nil {
		return nil, err
	}
	return hang(ctx, req)
}

// raise panics, in the action itself: its own request fails, and nothing else.
func raise(context.Context, *Request) (*Reply, error) { panic("raise: asked to panic") }

// record appends a line to the ledger: one write with O_APPEND, so that lines of several processes do not mix, and a process that is killed has written all of its line or nothing.
func record(nonce string) error {
	path := os.Getenv(LedgerVariable)
	if path == "" {
		return ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "the worker's environment has no %s; set it under the pool's env to a file's name", LedgerVariable)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(nonce + " " + os.Getenv(ipc.SlotVariable) + " " + strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}
