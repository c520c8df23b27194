package tensorfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ringmasterd/ringmaster/ipc"
)

const npyMagic = "\x93NUMPY"

// dtypes are NumPy's type strings, without the byte order.
var dtypes = map[string]string{
	"b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
	"f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}

// The header is a Python dictionary literal; NumPy writes it in one form only.
var (
	npyDescr   = regexp.MustCompile(`'descr': *'([<>=|])([a-zA-Z]\d*)'`)
	npyFortran = regexp.MustCompile(`'fortran_order': *(True|False)`)
	npyShape   = regexp.MustCompile(`'shape': *\(([\d, ]*)\)`)
)

// parseNPY reads numpy.save's format, versions 1 to 3.
func parseNPY(b []byte) (ipc.Tensor, error) {
	cut := errors.New("the .npy file is cut off")
	if len(b) < 12 {
		return ipc.Tensor{}, cut
	}
	begin, size := 10, uint64(binary.LittleEndian.Uint16(b[8:]))
	if b[6] > 1 {
		begin, size = 12, uint64(binary.LittleEndian.Uint32(b[8:]))
	}
	if size > uint64(len(b)-begin) {
		return ipc.Tensor{}, cut
	}
	header, data := string(b[begin:begin+int(size)]), b[begin+int(size):]

	descr, fortran, shape := npyDescr.FindStringSubmatch(header), npyFortran.FindStringSubmatch(header), npyShape.FindStringSubmatch(header)
	if descr == nil || fortran == nil || shape == nil {
		return ipc.Tensor{}, fmt.Errorf("the .npy header is not one of a plain array: %.80q", header)
	}
	t := ipc.Tensor{DType: dtypes[descr[2]], Data: data}
	switch {
	case t.DType == "":
		return ipc.Tensor{}, fmt.Errorf("the array's dtype %s is not one that tensors have; convert it, for example with .astype('float32')", descr[2])
	case descr[1] == ">":
		return ipc.Tensor{}, fmt.Errorf("the array is big-endian; convert it with .astype('<%s')", descr[2])
	case fortran[1] == "True":
		return ipc.Tensor{}, errors.New("the array is in Fortran order; convert it with numpy.ascontiguousarray")
	}
	for dim := range strings.SplitSeq(shape[1], ",") {
		if dim = strings.TrimSpace(dim); dim == "" {
			continue
		}
		n, err := strconv.ParseUint(dim, 10, 64)
		if err != nil {
			return ipc.Tensor{}, fmt.Errorf("the array's shape (%s) is not valid", shape[1])
		}
		t.Shape = append(t.Shape, n)
	}
	return t, t.Validate()
}
