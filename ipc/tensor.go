package ipc

import "math/bits"

// Tensor is a dense array in row-major order, little-endian.
type Tensor struct {
	Name  string
	DType string   // NumPy's name, or "bfloat16"
	Shape []uint64 // empty: a scalar
	Data  []byte   // exactly prod(Shape) × item size bytes
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

// Validate checks that dtype exists and that Data is as long as shape and dtype say. The arithmetic cannot overflow.
func (t *Tensor) Validate() error {
	size := ItemSize(t.DType)
	if size == 0 {
		return Errorf(InvalidArgument, "bad_tensor", "tensor %q: unknown dtype %q; use a NumPy name such as float32, or bfloat16", t.Name, t.DType)
	}
	want := size
	for _, n := range t.Shape {
		hi, lo := bits.Mul64(want, n)
		if hi != 0 {
			return Errorf(InvalidArgument, "bad_tensor", "tensor %q: shape %v overflows 64 bits", t.Name, t.Shape)
		}
		want = lo
	}
	if want != uint64(len(t.Data)) {
		return Errorf(InvalidArgument, "bad_tensor", "tensor %q: shape %v of %s needs %d bytes, got %d", t.Name, t.Shape, t.DType, want, len(t.Data))
	}
	return nil
}
