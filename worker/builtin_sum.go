package worker

import (
	"context"
	"encoding/binary"
	"math"

	"github.com/ringmasterd/ringmaster/ipc"
)

// sum adds up the elements of the tensor x.
func sum(_ context.Context, req *Request) (*Reply, error) {
	x := req.Tensor("x")
	if x == nil {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", `sum: there is no tensor "x" among the %d sent; send one of a real dtype such as float32`, len(req.Tensors))
	}
	element, ok := elements[x.DType]
	if !ok {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", `sum: tensor "x" is %s; use a real dtype such as float32`, x.DType)
	}
	size := int(ipc.ItemSize(x.DType))
	total := 0.0
	for data := x.Data; len(data) > 0; data = data[size:] {
		total += element(data)
	}
	return &Reply{Body: map[string]float64{"sum": total}}, nil
}

// elements read the first element of some bytes, for each dtype that can be added up.
var elements = map[string]func([]byte) float64{
	"bool":    func(b []byte) float64 { return float64(min(b[0], 1)) },
	"int8":    func(b []byte) float64 { return float64(int8(b[0])) },
	"uint8":   func(b []byte) float64 { return float64(b[0]) },
	"int16":   func(b []byte) float64 { return float64(int16(binary.LittleEndian.Uint16(b))) },
	"uint16":  func(b []byte) float64 { return float64(binary.LittleEndian.Uint16(b)) },
	"int32":   func(b []byte) float64 { return float64(int32(binary.LittleEndian.Uint32(b))) },
	"uint32":  func(b []byte) float64 { return float64(binary.LittleEndian.Uint32(b)) },
	"int64":   func(b []byte) float64 { return float64(int64(binary.LittleEndian.Uint64(b))) },
	"uint64":  func(b []byte) float64 { return float64(binary.LittleEndian.Uint64(b)) },
	"float16": func(b []byte) float64 { return float16(binary.LittleEndian.Uint16(b)) },
	"bfloat16": func(b []byte) float64 {
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
	},
	"float32": func(b []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))) },
	"float64": func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) },
}

// float16 is the value of an IEEE 754 half: 1 bit of sign, 5 of exponent, 10 of fraction.
func float16(bits uint16) float64 {
	sign := 1.0
	if bits&0x8000 != 0 {
		sign = -1
	}
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	switch exponent {
	case 0: // zero and subnormals
		return sign * math.Ldexp(fraction, -24)
	case 0x1f:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}
