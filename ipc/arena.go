package ipc

import (
	"cmp"
	"slices"

	"github.com/ringmasterd/ringmaster/internal/arena"
)

// arenaAlign is what offsets in arenas are multiples of: a cache line.
const arenaAlign = 64

// maxOutputs is how many outputs a request may name.
const maxOutputs = maxTensors

// Range is a part of an arena.
type Range struct {
	Region, Offset, Length uint64
}

// end is where the range ends. Preconditions: it is within an arena.
func (r Range) end() uint64 { return r.Offset + r.Length }

// Within reports whether the range begins at a multiple of 64 and lies in a region of so many bytes. The arithmetic cannot overflow.
func (r Range) Within(bytes uint64) bool {
	return r.Offset%arenaAlign == 0 && r.Offset <= bytes && r.Length <= bytes-r.Offset
}

// Output is where in an arena the requester would like the reply's tensor of that name. Each is for one tensor in all of the replies to a request.
type Output struct {
	Name string
	At   Range  // Length is how many bytes there are
	Data []byte // a view of them, in a process that has the arena mapped; nil elsewhere. Does not travel

	taken bool // by Output: nobody else is to write there
	sent  bool // by Place: a reply names it
}

// regions returns the numbers of the regions that a request names, as often as it does.
func (r *Request) regions() []uint64 {
	var ids []uint64
	for i := range r.Tensors {
		if id := r.Tensors[i].At.Region; id != 0 {
			ids = append(ids, id)
		}
	}
	for i := range r.Outputs {
		ids = append(ids, r.Outputs[i].At.Region)
	}
	return ids
}

// NamesArenas reports whether the request names arena memory.
func (r *Request) NamesArenas() bool {
	return len(r.Outputs) > 0 || slices.ContainsFunc(r.Tensors, inArena)
}

func inArena(t Tensor) bool { return t.At.Region != 0 }

// ValidateArenas checks what the request says of arenas: that it may name the regions, that everything lies in them, that no output's name comes twice, and that no output overlaps anything else.
func (r *Request) ValidateArenas() error {
	if !r.NamesArenas() {
		return nil
	}
	for i := range r.Tensors {
		if t := &r.Tensors[i]; inArena(*t) {
			if err := r.validateRange("tensor", t.Name, t.At); err != nil {
				return err
			}
		}
	}
	names := make(map[string]struct{}, len(r.Outputs))
	for i := range r.Outputs {
		o := &r.Outputs[i]
		if err := r.validateRange("output", o.Name, o.At); err != nil {
			return err
		}
		if o.At.Length == 0 {
			return badRegion("output %q has no bytes; give it room for the tensor, or leave it out", o.Name)
		}
		if _, twice := names[o.Name]; twice {
			return badRegion("there are two outputs %q; each name has one", o.Name)
		}
		names[o.Name] = struct{}{}
	}
	return r.validateApart()
}

func (r *Request) validateRange(what, name string, at Range) error {
	region := r.Arenas.Region(at.Region)
	if region == nil {
		return unknownRegion(at.Region)
	}
	if !at.Within(region.Bytes) {
		return badRegion("%s %q is %d bytes at %d of region %d, which has %d; it has to begin at a multiple of %d and end within the region", what, name, at.Length, at.Offset, at.Region, region.Bytes, arenaAlign)
	}
	return nil
}

// validateApart checks that no output overlaps another one, or a tensor. Preconditions: all lie within their regions.
func (r *Request) validateApart() error {
	if len(r.Outputs) == 0 {
		return nil
	}
	type claim struct {
		at     Range
		name   string
		output bool
	}
	var claims []claim
	for i := range r.Tensors {
		if t := &r.Tensors[i]; inArena(*t) && t.At.Length > 0 {
			claims = append(claims, claim{t.At, t.Name, false})
		}
	}
	for i := range r.Outputs {
		claims = append(claims, claim{r.Outputs[i].At, r.Outputs[i].Name, true})
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.at.Region, b.at.Region), cmp.Compare(a.at.Offset, b.at.Offset))
	})
	var tensor, output claim // those of what came so far that end last
	for _, c := range claims {
		before := [...]claim{output, tensor}
		if !c.output {
			before[1] = claim{} // tensors may overlap each other
		}
		for _, b := range before {
			if b.at.Region == c.at.Region && b.at.end() > c.at.Offset {
				return badRegion("outputs are to be apart from each other and from tensors: %q and %q overlap in region %d, at %d", b.name, c.name, c.at.Region, c.at.Offset)
			}
		}
		last := &tensor
		if c.output {
			last = &output
		}
		if last.at.Region != c.at.Region || last.at.end() < c.at.end() {
			*last = c
		}
	}
	return nil
}

func badRegion(format string, args ...any) *Error {
	return Errorf(InvalidArgument, "bad_region", format, args...)
}

func unknownRegion(id uint64) *Error {
	return badRegion("there is no region %d; a request may name those that its own connection has attached, until it detaches them", id)
}

// claim sees that the regions stay that a request names. It is asked as the request arrives, for the next message may detach them.
func claim(set *arena.Set, r *Request) *Error {
	ids := r.regions()
	if len(ids) == 0 {
		return nil
	}
	use, missing, ok := set.Claim(ids)
	if !ok {
		return unknownRegion(missing)
	}
	r.Arenas = use
	return nil
}

// output returns the request's output of that name, or nil.
func output(outputs []Output, name string) *Output {
	for i := range outputs {
		if outputs[i].Name == name {
			return &outputs[i]
		}
	}
	return nil
}

// Output returns a tensor for the reply: in the memory where the requester would like the one of that name, if it fits, else in memory of this process. Its bytes are anything at first. What an action
// writes there is not copied any more; the same name a second time is memory of this process.
func (r *Request) Output(name, dtype string, shape ...uint64) (Tensor, error) {
	size, err := TensorSize(name, dtype, shape)
	if err != nil {
		return Tensor{}, err
	}
	t := Tensor{Name: name, DType: dtype, Shape: shape}
	if o := output(r.Outputs, name); o != nil && uint64(len(o.Data)) >= size && !o.taken {
		o.taken = true
		t.Data = o.Data[:size:size]
		return t, nil
	}
	if size > maxHeapTensor {
		return Tensor{}, Errorf(InvalidArgument, "bad_tensor", "tensor %q: shape %v of %s is %d bytes, which no message can carry", name, shape, dtype, size)
	}
	t.Data = make([]byte, size)
	return t, nil
}

// maxHeapTensor is the largest tensor that is made outside of an arena, in bytes: messages are smaller.
const maxHeapTensor = 1 << 32

// Place puts the tensors of a reply where the requester would like them, and returns them as they are to be sent: what the action wrote there stays, what it wrote elsewhere is copied, and what does not fit
// travels. It is called once for each reply.
func (r *Request) Place(tensors []Tensor) []Tensor {
	if len(r.Outputs) == 0 && !slices.ContainsFunc(tensors, inArena) {
		return tensors
	}
	tensors = slices.Clone(tensors) // they may be the request's
	for i := range tensors {
		t := &tensors[i]
		t.At = Range{} // a request's own tensors travel, too
		o := output(r.Outputs, t.Name)
		if o == nil || len(t.Data) == 0 || len(t.Data) > len(o.Data) || o.sent {
			continue
		}
		o.taken, o.sent = true, true
		if &t.Data[0] != &o.Data[0] {
			copy(o.Data, t.Data)
		}
		t.At = Range{o.At.Region, o.At.Offset, uint64(len(t.Data))}
	}
	return tensors
}

// settle checks that what a reply says of arenas is what its request asked for, and lets it see the memory.
func settle(outputs []Output, reply *Reply) error {
	for i := range reply.Tensors {
		t := &reply.Tensors[i]
		if !inArena(*t) {
			continue
		}
		o := output(outputs, t.Name)
		if o == nil || t.At.Region != o.At.Region || t.At.Offset != o.At.Offset || t.At.Length > o.At.Length {
			return protocolErrorf("the reply to request %d has tensor %q in region %d at %d, %d bytes, which is no output of that request", reply.ID, t.Name, t.At.Region, t.At.Offset, t.At.Length)
		}
		if o.Data != nil {
			t.Data = o.Data[:t.At.Length:t.At.Length]
		}
	}
	return nil
}
