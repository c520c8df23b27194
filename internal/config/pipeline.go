package config

import (
	"go.yaml.in/yaml/v3"

	"github.com/ringmasterd/ringmaster/chain/pipeline"
)

// The keys of pipelines and their steps.
var (
	pipelineFields = fields[pipeline.Pipeline]{
		"actions": func(d *decoder, v value, p *pipeline.Pipeline) {
			if d.texts(v, &p.Actions, "a list of actions' names, as in [run]") && len(p.Actions) == 0 {
				d.fail(v, "[]", "the list is empty; remove the key for [run]")
			}
		},
		"timeout":  func(d *decoder, v value, p *pipeline.Pipeline) { d.duration(v, &p.Timeout, 1, "30s") },
		"parallel": func(d *decoder, v value, p *pipeline.Pipeline) { d.integer(v, &p.Parallel, 1) },
		"output":   func(d *decoder, v value, p *pipeline.Pipeline) { d.text(v, &p.Output, "a step's name") },
		"steps": func(d *decoder, v value, p *pipeline.Pipeline) {
			entries, ok := d.entries(v, "steps by name, as in {answer: {pool: smollm2, action: chat, body: $input.body}}")
			if !ok {
				return
			}
			for _, e := range entries {
				s := pipeline.Step{Name: e.name}
				object(d, e.value, stepFields, &s, "keys such as pool and action, or aggregate")
				p.Steps = append(p.Steps, s)
			}
		},
	}
	stepFields = fields[pipeline.Step]{
		"pool":      func(d *decoder, v value, s *pipeline.Step) { d.text(v, &s.Pool, "a pool's name") },
		"action":    func(d *decoder, v value, s *pipeline.Step) { d.text(v, &s.Action, "an action's name") },
		"aggregate": func(d *decoder, v value, s *pipeline.Step) { s.Aggregate, _ = d.content(v, 0) },
		"body":      func(d *decoder, v value, s *pipeline.Step) { s.Body, _ = d.content(v, 0) },
		"tensors":   (*decoder).stepTensors,
		"gather":    func(d *decoder, v value, s *pipeline.Step) { d.text(v, &s.Gather, "a key of the chunks, as in text") },
		"timeout":   func(d *decoder, v value, s *pipeline.Step) { d.duration(v, &s.Timeout, 1, "5s") },
		"on_error": func(d *decoder, v value, s *pipeline.Step) {
			var word string
			if d.oneOf(v, &word, string(pipeline.Fail), string(pipeline.Skip), string(pipeline.Default)) {
				s.OnError = pipeline.OnError(word)
			}
		},
		"default": func(d *decoder, v value, s *pipeline.Step) { d.body(v, &s.Default) },
	}
)

func (d *decoder) pipelines(v value, f *File) {
	entries, ok := d.entries(v, "pipelines by name, as in `read-aloud: {steps: {…}}`")
	if !ok {
		return
	}
	f.Pipelines.Pipelines = map[string]pipeline.Pipeline{}
	for _, e := range entries {
		var p pipeline.Pipeline
		object(d, e.value, pipelineFields, &p, "keys such as steps")
		f.Pipelines.Pipelines[e.name] = p
	}
}

// stepTensors reads a reference to all tensors, or one for each.
func (d *decoder) stepTensors(v value, s *pipeline.Step) {
	const want = "a reference to all there are, as in $input.tensors, or an object with one for each, as in {image: $input.tensors.page}"
	if v.resolve().Kind == yaml.ScalarNode {
		d.text(v, &s.All, want)
		return
	}
	entries, ok := d.entries(v, want)
	if !ok {
		return
	}
	s.Tensors = map[string]string{}
	for _, e := range entries {
		var text string
		d.text(e.value, &text, "a reference to a tensor, as in $input.tensors.page")
		s.Tensors[e.name] = text
	}
}
