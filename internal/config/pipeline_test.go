package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain/pipeline"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestPipelines(t *testing.T) {
	f, err := Parse("f", []byte(`
pools: {ocr: {builtin: echo}, smollm2: {builtin: echo}}
pipelines:
  read-aloud:
    actions: [run, chat]
    timeout: 30s
    parallel: 2
    output: out
    steps:
      ocr: {pool: ocr, action: read, body: $input.body, tensors: $input.tensors, timeout: 5s, on_error: default, default: {lines: []}}
      out:
        aggregate: {answer: $steps.answer.body.text, lines: "$steps.ocr.body.lines[0] or null", model: "${MODEL_DIR}"}
        tensors: {page: $steps.ocr.tensors.image}
      answer:
        pool: smollm2
        action: chat
        gather: text
        on_error: skip
        body:
          messages:
            - {role: user, content: "Read: $(steps.ocr.body.lines)"}
          max_tokens: 64
`), environment)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := ipc.Marshal(map[string]any{"lines": []any{}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]pipeline.Pipeline{"read-aloud": {
		Actions: []string{"run", "chat"}, Timeout: 30 * time.Second, Parallel: 2, Output: "out",
		Steps: []pipeline.Step{
			{Name: "ocr", Pool: "ocr", Action: "read", Body: "$input.body", All: "$input.tensors", Timeout: 5 * time.Second, OnError: pipeline.Default, Default: lines},
			{Name: "out", Aggregate: map[string]any{"answer": "$steps.answer.body.text", "lines": "$steps.ocr.body.lines[0] or null", "model": "/models"}, Tensors: map[string]string{"page": "$steps.ocr.tensors.image"}},
			{Name: "answer", Pool: "smollm2", Action: "chat", Gather: "text", OnError: pipeline.Skip, Body: map[string]any{
				"messages": []any{map[string]any{"role": "user", "content": "Read: $(steps.ocr.body.lines)"}}, "max_tokens": 64,
			}},
		},
	}}
	if !reflect.DeepEqual(f.Pipelines.Pipelines, want) {
		t.Errorf("got  %+v\nwant %+v", f.Pipelines.Pipelines, want)
	}
}

func TestPipelineErrors(t *testing.T) {
	for _, tt := range []struct{ pipelines, want string }{
		{"  echo: {steps: {a: {pool: echo, action: echo}}}", "f:3:9: pipelines.echo: echo: there is a pool of this name; choose another"},
		{"  p: {step: {}}", "f:3:7: pipelines.p.step: unknown key: did you mean steps?"},
		{"  p: {actions: [], steps: {a: {aggregate: 1}}}", "f:3:16: pipelines.p.actions: []: the list is empty; remove the key for [run]"},
		{"  p: {steps: {a: {pool: ocr, action: x}}}", "f:3:25: pipelines.p.steps.a.pool: ocr: there is no such pool; there are echo"},
		{"  p:\n    steps:\n      a:\n        pool: echo\n        action: echo\n        body:\n          list:\n            - x\n            - $steps.b.body\n", "f:11:15: pipelines.p.steps.a.body.list[1]: $steps.b.body: there is no step b"},
		{"  p: {steps: {a: {aggregate: {x: $steps.b.body}}, b: {aggregate: [1, $steps.a.body.x]}}}", "f:3:18: pipelines.p.steps.a: a → b → a: these steps need each other's answers; take one reference away"},
		{"  p:\n    steps:\n      a: {aggregate: 1}\n      b: {aggregate: 2}\n", "f:5:10: pipelines.p.steps.a: unused: no step refers to its answer, and it is not the output; remove it, or name it under `output`"},
		{"  p: {steps: {a: {pool: echo, action: x, tensors: [1]}}}", "f:3:51: pipelines.p.steps.a.tensors: a list: expected a reference to all there are, as in $input.tensors, or an object with one for each, as in {image: $input.tensors.page}"},
		{"  p: {steps: {a: {pool: echo, action: x, tensors: {t: $input.body}}}}", "f:3:55: pipelines.p.steps.a.tensors.t: $input.body: refer to tensors: all of them, as in $input.tensors, or each by its name, as in {image: $input.tensors.page}"},
		{"  p: {steps: {a: {pool: echo, action: x, on_error: ignore}}}", "f:3:52: pipelines.p.steps.a.on_error: ignore: use fail, skip or default"},
	} {
		_, err := Parse("f", []byte("pools: {echo: {builtin: echo}}\npipelines:\n"+tt.pipelines), environment)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.pipelines, err, tt.want)
		}
	}
}
