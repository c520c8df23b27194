package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// plan is a pipeline, checked and compiled. It is immutable.
type plan struct {
	name     string
	actions  []string
	timeout  time.Duration
	parallel int
	steps    []step
	output   int // index of the step whose answer is the pipeline's
}

// step is a compiled [Step].
type step struct {
	Step
	aggregate bool
	body      value // nil: none
	tensors   []tensor
	all       *ref  // all tensors there; nil: those of tensors
	needs     []int // steps that it refers to, each once
	feeds     []int // steps that refer to it
}

// tensor is one that a step is given, under a name of its own.
type tensor struct {
	name string
	from *ref
}

// bad is what is wrong, and where within its pipeline.
type bad struct {
	field string
	value any
	want  string
}

func (b *bad) Error() string { return fmt.Sprintf("%s: %v: %s", b.field, b.value, b.want) }

// compile makes plans of all pipelines. The error is a [*FieldError].
func (c *Config) compile(pools []string) (map[string]*plan, error) {
	plans := map[string]*plan{}
	for _, name := range slices.Sorted(maps.Keys(c.Pipelines)) {
		p, err := compilePipeline(name, c.Pipelines[name], pools)
		if err != nil {
			var b *bad
			errors.As(err, &b)
			return nil, &FieldError{name, b.field, b.value, b.want}
		}
		plans[name] = p
	}
	return plans, nil
}

// compilePipeline checks a pipeline and makes its plan. The error is a [*bad].
func compilePipeline(name string, cfg Pipeline, pools []string) (*plan, error) {
	p := &plan{name: name, actions: cfg.Actions, timeout: cmp.Or(cfg.Timeout, defaultTimeout), parallel: cmp.Or(cfg.Parallel, defaultParallel)}
	if p.actions == nil {
		p.actions = []string{defaultAction}
	}
	switch {
	case !validName(name):
		return nil, &bad{"", fmt.Sprintf("%q", name), "a pipeline's name is 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit"}
	case name == controlPool:
		return nil, &bad{"", name, "this name is reserved for control requests; choose another"}
	case slices.Contains(pools, name):
		return nil, &bad{"", name, "there is a pool of this name; choose another"}
	case len(p.actions) == 0 || slices.Contains(p.actions, ""):
		return nil, &bad{"actions", p.actions, "name at least one action, as in [run]; or remove the key"}
	case cfg.Timeout < 0:
		return nil, &bad{"timeout", cfg.Timeout, "use a positive duration such as 30s"}
	case p.parallel < 1 || p.parallel > maxParallel:
		return nil, &bad{"parallel", cfg.Parallel, fmt.Sprintf("use 1 to %d", maxParallel)}
	case len(cfg.Steps) == 0:
		return nil, &bad{"steps", "(none)", "name at least one step, as in {answer: {pool: smollm2, action: chat, body: $input.body}}"}
	case len(cfg.Steps) > maxSteps:
		return nil, &bad{"steps", len(cfg.Steps), fmt.Sprintf("use at most %d", maxSteps)}
	}
	index := map[string]int{}
	for i := range cfg.Steps {
		index[cfg.Steps[i].Name] = i
	}
	p.output = len(cfg.Steps) - 1
	if cfg.Output != "" {
		i, known := index[cfg.Output]
		if !known {
			return nil, &bad{"output", cfg.Output, "there is no such step"}
		}
		p.output = i
	}
	for i := range cfg.Steps {
		s, err := compileStep(cfg.Steps[i], index, pools)
		if err != nil {
			return nil, err
		}
		p.steps = append(p.steps, *s)
	}
	return p, p.check()
}

// compileStep checks a step and what it refers to.
func compileStep(cfg Step, index map[string]int, pools []string) (*step, error) {
	s := &step{Step: cfg, aggregate: cfg.Aggregate != nil}
	field := "steps." + cfg.Name
	wrong := func(key string, value any, format string, args ...any) error {
		return &bad{field + key, value, fmt.Sprintf(format, args...)}
	}
	switch {
	case strings.IndexFunc(cfg.Name, unplain) >= 0 || cfg.Name == "":
		return nil, wrong("", fmt.Sprintf("%q", cfg.Name), "a step's name consists of letters, digits, '_' and '-'")
	case s.aggregate && (cfg.Pool != "" || cfg.Action != "" || cfg.Body != nil || cfg.Gather != "" || cfg.Timeout != 0):
		return nil, wrong(".aggregate", "(given)", "a step puts an object together, or asks a pool: give either aggregate, or pool, action and body")
	case !s.aggregate && cfg.Pool == "":
		return nil, wrong(".pool", "(none)", "give `pool: NAME` and `action: NAME`, or `aggregate: {…}`")
	case !s.aggregate && !slices.Contains(pools, cfg.Pool):
		return nil, wrong(".pool", cfg.Pool, "there is no such pool; there are %s", strings.Join(slices.Sorted(slices.Values(pools)), ", "))
	case !s.aggregate && cfg.Action == "":
		return nil, wrong(".action", "(none)", "name the pool's action")
	case cfg.Timeout < 0:
		return nil, wrong(".timeout", cfg.Timeout, "use a positive duration such as 5s")
	case !slices.Contains([]OnError{"", Fail, Skip, Default}, cfg.OnError):
		return nil, wrong(".on_error", string(cfg.OnError), "use fail, skip or default")
	case cfg.OnError == Default && cfg.Default == nil:
		return nil, wrong(".default", "(none)", "say what the step's answer is when it fails, as in {text: \"\"}")
	case cfg.OnError != Default && cfg.Default != nil:
		return nil, wrong(".default", "(given)", "it counts with on_error: default only")
	}
	use := func(at string, r *ref) error {
		if r.step == "" {
			return nil
		}
		i, known := index[r.step]
		switch {
		case !known:
			return &bad{at, "$" + r.text, "there is no step " + r.step}
		case r.step == cfg.Name:
			return &bad{at, "$" + r.text, "the step refers to itself"}
		case !slices.Contains(s.needs, i):
			s.needs = append(s.needs, i)
		}
		r.index = i
		return nil
	}
	compiled := func(key string, v any) (value, error) {
		return compileValue(field+key, v, func(at string, r *ref) error {
			if r.part == partTensors {
				return &bad{at, "$" + r.text, "a tensor cannot be in a body; give it under `tensors`"}
			}
			return use(at, r)
		})
	}
	var err error
	switch {
	case s.aggregate:
		s.body, err = compiled(".aggregate", cfg.Aggregate)
	case cfg.Body != nil:
		s.body, err = compiled(".body", cfg.Body)
	}
	if err != nil {
		return nil, err
	}
	return s, s.compileTensors(field+".tensors", use)
}

// compileTensors reads the references to tensors.
func (s *step) compileTensors(field string, use func(at string, r *ref) error) error {
	read := func(at, text string, whole bool) (*ref, error) {
		inner, dollar := strings.CutPrefix(text, "$")
		r, err := parseRef(inner)
		switch {
		case !dollar || err != nil || r.part != partTensors || whole != (len(r.path) == 0):
			return nil, &bad{at, text, "refer to tensors: all of them, as in $input.tensors, or each by its name, as in {image: $input.tensors.page}"}
		default:
			return &r, use(at, &r)
		}
	}
	var err error
	if s.All != "" {
		s.all, err = read(field, s.All, true)
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tensors)) {
		r, err := read(field+"."+name, s.Tensors[name], false)
		if err != nil {
			return err
		}
		s.tensors = append(s.tensors, tensor{name, r})
	}
	return nil
}

// check finds steps that nobody needs, and those that need each other, and connects the others.
func (p *plan) check() error {
	for i := range p.steps {
		for _, n := range p.steps[i].needs {
			p.steps[n].feeds = append(p.steps[n].feeds, i)
		}
	}
	if circle := p.circle(); circle != nil {
		return &bad{"steps." + circle[0], strings.Join(circle, " → "), "these steps need each other's answers; take one reference away"}
	}
	for i := range p.steps {
		switch s := &p.steps[i]; {
		case i == p.output && len(s.feeds) > 0:
			return &bad{"output", s.Name, "the output is what nobody else needs; step " + p.steps[s.feeds[0]].Name + " refers to it"}
		case i != p.output && len(s.feeds) == 0:
			return &bad{"steps." + s.Name, "unused", "no step refers to its answer, and it is not the output; remove it, or name it under `output`"}
		}
	}
	return nil
}

// circle returns the names of steps that need each other, each the next one, beginning and ending with the same; nil: there are none.
func (p *plan) circle() []string {
	const unseen, open, done = 0, 1, 2
	seen := make([]int, len(p.steps))
	var way []int
	var visit func(i int) []string
	visit = func(i int) []string {
		switch seen[i] {
		case done:
			return nil
		case open:
			var names []string
			for _, j := range way[slices.Index(way, i):] {
				names = append(names, p.steps[j].Name)
			}
			return append(names, p.steps[i].Name)
		}
		seen[i] = open
		way = append(way, i)
		for _, n := range p.steps[i].needs {
			if found := visit(n); found != nil {
				return found
			}
		}
		way = way[:len(way)-1]
		seen[i] = done
		return nil
	}
	for i := range p.steps {
		if found := visit(i); found != nil {
			return found
		}
	}
	return nil
}

// describe is a configured value as an error quotes it.
func describe(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	default:
		return fmt.Sprint(v)
	}
}

// validName is what a pool's name is, too.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '-' || s[0] == '_' || s[0] == '.' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || r != '.' && unplain(r) }) < 0
}

// failed is a step's error as the request ends with it: its code and reason, and which step it was.
func (p *plan) failed(s *step, e *ipc.Error) *ipc.Error {
	told := *e
	told.Message = fmt.Sprintf("step %s of pipeline %s: %s", s.Name, p.name, e.Message)
	told.Details = maps.Clone(e.Details)
	if told.Details == nil {
		told.Details = map[string]string{}
	}
	told.Details["step"] = s.Name
	return &told
}
