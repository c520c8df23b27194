package pipeline

import (
	"fmt"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Config has the pipelines there are, by name.
type Config struct {
	Pipelines map[string]Pipeline
}

// Pipeline is a chain of steps. The zero values of its fields are the defaults named beside them.
type Pipeline struct {
	Actions  []string      // under which it is called; nil: run
	Timeout  time.Duration // a request's deadline if it brings none; 0: 60 s
	Parallel int           // steps of one request that run at a time; 0: 8
	Steps    []Step        // in the file's order, which counts for nothing but the output
	Output   string        // the step whose answer is the pipeline's; "": the last one
}

// Step is one step. Bodies are what a message may have, of nil, bool, numbers, string, []any and map[string]any; strings may refer to what there is, see path.go.
type Step struct {
	Name      string
	Pool      string            // whom it asks
	Action    string            // of that pool
	Aggregate any               // what it is instead of asking; nil: it asks
	Body      any               // of its request; nil: none
	Tensors   map[string]string // of its request, or its aggregate, each by a reference to one
	All       string            // a reference to all tensors there; exclusive with Tensors
	Gather    string            // key of the text in a stream's chunks, which become one answer; "": the step does not stream, or is the output
	Timeout   time.Duration     // of this step; 0: what the request has left
	OnError   OnError           // "": fail
	Default   ipc.Body          // for on_error: default
}

// OnError says what becomes of the request when a step fails.
type OnError string

// What there is.
const (
	Fail    OnError = "fail"    // it fails likewise, with the step's error
	Skip    OnError = "skip"    // the step has no answer: references to it are nil
	Default OnError = "default" // the step's answer is another body
)

const (
	defaultAction   = "run"
	defaultTimeout  = 60 * time.Second
	defaultParallel = 8
	maxParallel     = 64
	maxSteps        = 64
	controlPool     = "ringmaster"
)

// FieldError is a bad value in a [Config]: which field, the value, and what would be right.
type FieldError struct {
	Pipeline string
	Field    string // as in ringmaster.yaml; "": the pipeline itself
	Value    any
	Want     string
}

func (e *FieldError) Error() string {
	where := "pipelines." + e.Pipeline
	if e.Field != "" {
		where += "." + e.Field
	}
	return fmt.Sprintf("%s: %v: %s", where, e.Value, e.Want)
}

// Validate reports the first thing that is wrong, as a [*FieldError]. pools are the names there are.
func (c *Config) Validate(pools []string) error {
	_, err := c.compile(pools)
	return err
}
