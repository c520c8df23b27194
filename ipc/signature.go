package ipc

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Signature is what a worker declares of an action: what it takes and what it answers. It is for those who ask how to call it, and binds nobody: requests are not held against it.
type Signature struct {
	Inputs  []Port `json:"inputs" msgpack:"inputs"`
	Outputs []Port `json:"outputs" msgpack:"outputs"`
}

// Port is an input or an output of an action: a tensor, or with the dtype str a member of the body that is a string or a list of strings.
type Port struct {
	Name  string  `json:"name" msgpack:"name"`
	DType string  `json:"dtype" msgpack:"dtype"`
	Shape []int64 `json:"shape" msgpack:"shape"` // -1: any length
}

// TextType is the dtype of a [Port] whose elements are strings.
const TextType = "str"

// The bounds of what is declared.
const (
	maxPorts    = 1024 // of one hello
	maxPortName = 128  // bytes
	maxPortDims = 32
)

// Validate reports what is wrong with a signature.
func (s *Signature) Validate() error {
	if len(s.Inputs)+len(s.Outputs) > maxPorts {
		return fmt.Errorf("there are %d inputs and outputs, %d are the most", len(s.Inputs)+len(s.Outputs), maxPorts)
	}
	if err := validatePorts("input", s.Inputs); err != nil {
		return err
	}
	return validatePorts("output", s.Outputs)
}

func validatePorts(what string, ports []Port) error {
	names := map[string]bool{}
	for _, p := range ports {
		if err := p.validate(); err != nil {
			return fmt.Errorf("%s %q: %w", what, clipName(p.Name), err)
		}
		if names[p.Name] {
			return fmt.Errorf("two %ss are named %q", what, p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

func (p *Port) validate() error {
	switch {
	case p.Name == "" || len(p.Name) > maxPortName || !utf8.ValidString(p.Name):
		return fmt.Errorf("a name is 1 to %d bytes of UTF-8", maxPortName)
	case p.DType != TextType && ItemSize(p.DType) == 0:
		return fmt.Errorf("the dtype is %q; use NumPy's names, bfloat16, or %s for strings", clipName(p.DType), TextType)
	case len(p.Shape) > maxPortDims:
		return fmt.Errorf("the shape has %d dimensions, %d are the most", len(p.Shape), maxPortDims)
	case slices.ContainsFunc(p.Shape, func(n int64) bool { return n < -1 }):
		return fmt.Errorf("the shape is %v; its numbers are 0 or more, or -1 for any", p.Shape)
	}
	return nil
}

func clipName(s string) string {
	if len(s) > maxPortName {
		return strings.ToValidUTF8(s[:maxPortName], "") + "…"
	}
	return s
}

// action writes what a hello says of an action: [name, flags], with inputs and outputs behind it if they are declared.
func (e *encoder) action(a Action) {
	n := 2
	if a.Signature != nil && len(a.Signature.Inputs) > 0 {
		n = 3
	}
	if a.Signature != nil && len(a.Signature.Outputs) > 0 {
		n = 4
	}
	e.array(n)
	e.str(a.Name)
	e.uint(a.flags())
	if n > 2 {
		e.ports(a.Signature.Inputs)
	}
	if n > 3 {
		e.ports(a.Signature.Outputs)
	}
}

func (e *encoder) ports(list []Port) {
	e.array(len(list))
	for _, p := range list {
		e.array(3)
		e.str(p.Name)
		e.str(p.DType)
		e.array(len(p.Shape))
		for _, n := range p.Shape {
			if n < 0 {
				e.buf = append(e.buf, codeAny)
				continue
			}
			e.uint(uint64(n))
		}
	}
}

// codeAny is -1, for a length that may be any.
const codeAny = 0xff

// action reads what a hello says of an action; left counts the inputs and outputs that may yet be declared.
func (r *reader) action(left *int) Action {
	k := r.array()
	a := Action{}
	if k > 0 {
		a.Name = r.str()
	}
	if k > 1 {
		f := r.uint()
		a.Stream, a.Idempotent, a.Batchable = f&1 != 0, f&2 != 0, f&4 != 0
	}
	var s Signature
	if k > 2 {
		s.Inputs = r.ports(left)
	}
	if k > 3 {
		s.Outputs = r.ports(left)
	}
	r.skip(k-4, 3)
	if len(s.Inputs)+len(s.Outputs) > 0 {
		a.Signature = &s
	}
	return a
}

func (r *reader) ports(left *int) []Port {
	n := r.most(r.array(), *left, "inputs and outputs in a hello")
	*left -= n
	var list []Port
	for i := 0; i < n && r.err == nil; i++ {
		k := r.array()
		p := Port{Shape: []int64{}}
		if k > 0 {
			p.Name = r.str()
		}
		if k > 1 {
			p.DType = r.dtype()
		}
		if k > 2 {
			for range r.most(r.array(), maxPortDims, "dimensions of an input or output") {
				p.Shape = append(p.Shape, r.length64())
			}
		}
		r.skip(k-3, 5)
		list = append(list, p)
	}
	return list
}

// length64 reads a length, or -1 for any.
func (r *reader) length64() int64 {
	if r.at < len(r.b) && r.b[r.at] == codeAny {
		r.at++
		return -1
	}
	return int64(min(r.number(), math.MaxInt64))
}
