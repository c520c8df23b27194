package ipc

import "math/bits"

// Tensor is a dense array in row-major order, little-endian.
type Tensor struct {
	Name  string
	DType string   // NumPy's name, or "bfloat16"
	Shape []uint64 // empty: a scalar
	Data  []byte   // exactly prod(Shape) × item size bytes; where the bytes are in an arena, a view of them, or nil in a process that does not have it mapped
	At    Range    // where in an arena the bytes are; the zero value: they are in Data, and travel
}

// Size is how many bytes the array has, wherever they are.
func (t *Tensor) Size() uint64 {
	if t.At.Region != 0 {
		return t.At.Length
	}
	return uint64(len(t.Data))
}

// dtypeNames are the types there are, the most frequent first.
var dtypeNames = []string{
	"uint8", "float32", "float16", "bfloat16", "int64", "int32", "float64", "bool", "int8", "int16", "uint16", "uint32", "uint64", "complex64", "complex128",
}

// ItemSize returns the bytes of one element of dtype, or 0 if there is no such dtype.
func ItemSize(dtype string) uint64 {
	switch dtype {
	case "bool", "int8", "uint8":
		return 1
	case "int16", "uint16", "float16", "bfloat16":
		return 2
	case "int32", "uint32", "float32":
		return 4
	case "int64", "uint64", "float64", "complex64":
		return 8
	case "complex128":
		return 16
	}
	return 0
}

// TensorSize returns how many bytes an array of that dtype and shape has. The arithmetic cannot overflow; the name is for the error.
func TensorSize(name, dtype string, shape []uint64) (uint64, error) {
	size := ItemSize(dtype)
	if size == 0 {
		return 0, Errorf(InvalidArgument, "bad_tensor", "tensor %q: unknown dtype %q; use a NumPy name such as float32, or bfloat16", name, dtype)
	}
	for _, n := range shape {
		hi, lo := bits.Mul64(size, n)
		if hi != 0 {
			return 0, Errorf(InvalidArgument, "bad_tensor", "tensor %q: shape %v overflows 64 bits", name, shape)
		}
		size = lo
	}
	return size, nil
}

// Validate checks that dtype exists and that the bytes are as many as shape and dtype say. Whether they lie in an arena where they are said to is not checked here; see [Request.ValidateArenas].
func (t *Tensor) Validate() error {
	want, err := TensorSize(t.Name, t.DType, t.Shape)
	if err != nil {
		return err
	}
	if got := t.Size(); want != got {
		return Errorf(InvalidArgument, "bad_tensor", "tensor %q: shape %v of %s needs %d bytes, got %d", t.Name, t.Shape, t.DType, want, got)
	}
	return nil
}
