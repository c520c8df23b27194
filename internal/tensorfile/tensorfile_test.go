package tensorfile

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// npy makes a file as numpy.save does.
func npy(header string, data ...byte) []byte {
	b := append([]byte(npyMagic), 1, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(header)))
	return append(append(b, header...), data...)
}

func TestNPY(t *testing.T) {
	v2 := append([]byte(npyMagic), 2, 0, 59, 0, 0, 0)
	v2 = append(v2, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1), }"...)
	for _, tt := range []struct {
		name  string
		file  []byte
		dtype string
		shape []uint64
	}{
		{"vector", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }  \n", make([]byte, 8)...), "float32", []uint64{2}},
		{"scalar", npy("{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n", make([]byte, 8)...), "int64", nil},
		{"empty", npy("{'descr': '<c16', 'fortran_order': False, 'shape': (0, 3), }\n"), "complex128", []uint64{0, 3}},
		{"version 2", append(v2, 5, 6), "uint8", []uint64{2, 1}},
	} {
		got, err := parse(tt.file)
		if err != nil || got.DType != tt.dtype || !slices.Equal(got.Shape, tt.shape) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

func TestNPYErrors(t *testing.T) {
	for _, tt := range []struct {
		file []byte
		want string
	}{
		{[]byte(npyMagic), "cut off"},
		{npy("")[:11], "cut off"},
		{append([]byte(npyMagic), 2, 0, 255, 255, 255, 255), "cut off"},
		{npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }"), "not one of a plain array"},
		{npy("{'descr': '<U5', 'fortran_order': False, 'shape': (2,), }"), "dtype U5"},
		{npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }"), ".astype('<f4')"},
		{npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }"), "ascontiguousarray"},
		{npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 1, 2), "needs 12 bytes, got 2"},
		{npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }"), "not valid"},
		{[]byte("GIF89a"), "neither PNG, JPEG nor .npy"},
	} {
		if _, err := parse(tt.file); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v, want %q", tt.file, err, tt.want)
		}
	}
}

func TestImages(t *testing.T) {
	box := image.Rect(0, 0, 3, 2)
	rgb, rgba, gray := image.NewRGBA(box), image.NewNRGBA(box), image.NewGray16(box)
	palette := image.NewPaletted(box, color.Palette{color.Black, color.Transparent})
	for y := range 2 {
		for x := range 3 {
			rgb.Set(x, y, color.RGBA{byte(x), byte(y), 9, 255})
			rgba.Set(x, y, color.NRGBA{byte(x), byte(y), 9, 128})
			gray.Set(x, y, color.Gray16{uint16(x)<<8 | 0x33})
			palette.SetColorIndex(x, y, uint8(x%2))
		}
	}
	for _, tt := range []struct {
		name  string
		img   image.Image
		shape []uint64
		first []byte // of the second pixel
	}{
		{"RGB", rgb, []uint64{2, 3, 3}, []byte{1, 0, 9}},
		{"RGBA", rgba, []uint64{2, 3, 4}, []byte{1, 0, 9, 128}},
		{"grey", gray, []uint64{2, 3, 1}, []byte{1}},
		{"palette", palette, []uint64{2, 3, 4}, []byte{0, 0, 0, 0}},
	} {
		var b bytes.Buffer
		if err := png.Encode(&b, tt.img); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.png")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read("img", path)
		if err != nil || got.Name != "img" || got.DType != "uint8" || !slices.Equal(got.Shape, tt.shape) {
			t.Errorf("%s: %v %v %v", tt.name, got.Name, got.Shape, err)
			continue
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if c := len(tt.first); !bytes.Equal(got.Data[c:2*c], tt.first) {
			t.Errorf("%s: the second pixel is %v, want %v", tt.name, got.Data[c:2*c], tt.first)
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, rgb, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := parse(b.Bytes()); err != nil || !slices.Equal(got.Shape, []uint64{2, 3, 3}) {
		t.Errorf("JPEG: %v %v", got.Shape, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", make([]byte, 8)...))
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		if got, err := parseNPY(append([]byte(npyMagic), data...)); err == nil {
			if err := got.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
