package pipeline

import (
	"context"
	"strings"

	"github.com/ringmasterd/ringmaster/ipc"
)

// gatherCredit is how many chunks of a step may be on their way.
const gatherCredit = 16

// gather takes a step's replies to their end and makes one answer of them. A stream's text is put together from its chunks; what else its last chunk says is kept.
func gather(ctx context.Context, replies ipc.Replies, s *step, most int) (result, *ipc.Error) {
	var res result
	var text strings.Builder
	var last ipc.Body
	for chunks := 0; ; chunks++ {
		reply, err := replies.Recv(ctx)
		if err != nil {
			return result{}, ipc.AsError(err)
		}
		if chunks == 0 {
			res.headers = reply.Headers
		}
		if len(reply.Body) > 0 {
			last = reply.Body
		}
		res.tensors = append(res.tensors, reply.Tensors...)
		if reply.End && chunks == 0 && s.Gather == "" {
			res.body = reply.Body
			return res, nil
		}
		if s.Gather == "" {
			e := ipc.Errorf(ipc.Unimplemented, "stream", "action %q of pool %q answers in chunks; say which part of them is put together, as in `gather: text`, or make the step the output", s.Action, s.Pool)
			replies.Cancel(e.Reason)
			return result{}, e
		}
		if part, err := at(reply.Body, []key{{name: s.Gather, index: -1}}); err == nil && part != nil {
			more, _ := stringOf(part)
			if text.Len()+len(more) > most {
				e := tooLarge(most)
				replies.Cancel(e.Reason)
				return result{}, e
			}
			text.WriteString(more)
		}
		if reply.End {
			var failed error
			res.body, failed = withText(last, s.Gather, text.String(), most)
			return res, ipc.AsError(failed)
		}
	}
}

// withText returns a map in which one member is a text, and the others are those of b, if that is a map.
func withText(b ipc.Body, name, text string, most int) (ipc.Body, error) {
	o := object{names: []string{name}}
	whole, err := ipc.Marshal(text)
	if err != nil {
		return nil, err
	}
	o.values = []value{literal(whole)}
	if len(b) > 0 {
		if err := newWalker(b).members(func(other string, v []byte) bool {
			if other != name {
				o.names, o.values = append(o.names, other), append(o.values, literal(v))
			}
			return true
		}); err != nil {
			return nil, err
		}
	}
	out := newBuilder(most)
	err = o.build(out, nil)
	return out.buf.Bytes(), err
}
