// Package tensorfile reads tensors from files: images (PNG, JPEG) and NumPy arrays (.npy).
package tensorfile

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // registers the format
	_ "image/png"  // registers the format
	"os"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxPixels keeps a small file from claiming a picture that fills the memory.
const maxPixels = 1 << 28

// Read reads the file as a tensor of that name. The file's content decides what it is, not its name.
func Read(name, path string) (ipc.Tensor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return ipc.Tensor{}, err
	}
	t, err := parse(data)
	if err != nil {
		return ipc.Tensor{}, fmt.Errorf("%s: %w", path, err)
	}
	t.Name = name
	return t, nil
}

func parse(data []byte) (ipc.Tensor, error) {
	switch {
	case bytes.HasPrefix(data, []byte(npyMagic)):
		return parseNPY(data)
	case bytes.HasPrefix(data, []byte("\x89PNG")), bytes.HasPrefix(data, []byte("\xff\xd8")):
		return parseImage(data)
	}
	return ipc.Tensor{}, fmt.Errorf("neither PNG, JPEG nor .npy; convert it, for example with numpy.save")
}

// parseImage decodes an image to uint8 of shape [height, width, channels]: 1 channel if it is grey, 4 if it can be transparent, 3 otherwise. Sixteen-bit images keep their upper eight bits.
func parseImage(data []byte) (ipc.Tensor, error) {
	cfg, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return ipc.Tensor{}, err
	}
	if cfg.Width <= 0 || cfg.Height <= 0 || cfg.Width > maxPixels/cfg.Height {
		return ipc.Tensor{}, fmt.Errorf("an image of %d×%d is too large", cfg.Width, cfg.Height)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return ipc.Tensor{}, err
	}
	box := img.Bounds()
	channels := channelsOf(img)
	pix := make([]byte, 0, box.Dx()*box.Dy()*channels)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA)
			switch channels {
			case 1:
				pix = append(pix, c.R)
			case 3:
				pix = append(pix, c.R, c.G, c.B)
			case 4:
				pix = append(pix, c.R, c.G, c.B, c.A)
			}
		}
	}
	return ipc.Tensor{DType: "uint8", Shape: []uint64{uint64(box.Dy()), uint64(box.Dx()), uint64(channels)}, Data: pix}, nil
}

func channelsOf(img image.Image) int {
	switch img := img.(type) {
	case *image.Gray, *image.Gray16:
		return 1
	case *image.NRGBA, *image.NRGBA64:
		return 4
	case *image.Paletted:
		if !img.Opaque() {
			return 4
		}
	}
	return 3
}
