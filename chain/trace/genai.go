package trace

import (
	"go.opentelemetry.io/otel/attribute"

	"github.com/ringmasterd/ringmaster/ipc"
)

// operations are the actions for which OpenTelemetry has conventions (GenAI), with its names for them.
var operations = map[string]string{"chat": "chat", "complete": "text_completion", "embed": "embeddings"}

// usage is how many tokens a model says it took and gave; -1: it does not say.
type usage struct {
	known         bool
	input, output int64
}

// learn takes over what a reply says of its usage: the member of that name, in OpenAI's form or in the conventions'. The request is a sampled one.
func (f *followed) learn(body ipc.Body) {
	if operations[f.req.Action] == "" || len(body) == 0 {
		return
	}
	u, ok := usageOf(body)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.more.usage = u
}

func usageOf(body ipc.Body) (usage, bool) {
	var reply struct {
		Usage *struct {
			Prompt     *int64 `msgpack:"prompt_tokens"`
			Completion *int64 `msgpack:"completion_tokens"`
			Input      *int64 `msgpack:"input_tokens"`
			Output     *int64 `msgpack:"output_tokens"`
		} `msgpack:"usage"`
	}
	if body.Decode(&reply) != nil || reply.Usage == nil {
		return usage{}, false // no map, or something else under that name: whose business it is
	}
	first := func(numbers ...*int64) int64 {
		for _, n := range numbers {
			if n != nil && *n >= 0 {
				return *n
			}
		}
		return -1
	}
	u := usage{true, first(reply.Usage.Prompt, reply.Usage.Input), first(reply.Usage.Completion, reply.Usage.Output)}
	return u, u.input >= 0 || u.output >= 0
}

// generative are the attributes of a request to a model.
func (r *record) generative() []attribute.KeyValue {
	operation := operations[r.action]
	if operation == "" {
		return nil
	}
	list := []attribute.KeyValue{
		attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.provider.name", "ringmaster"), attribute.String("gen_ai.request.model", r.pool),
	}
	if r.usage.known && r.usage.input >= 0 {
		list = append(list, attribute.Int64("gen_ai.usage.input_tokens", r.usage.input))
	}
	if r.usage.known && r.usage.output >= 0 {
		list = append(list, attribute.Int64("gen_ai.usage.output_tokens", r.usage.output))
	}
	return list
}

// title is the name of the request's own span: the conventions' for a model's, else pool.action.
func (r *record) title() string {
	if operation := operations[r.action]; operation != "" {
		return operation + " " + r.pool
	}
	return r.pool + "." + r.action
}
