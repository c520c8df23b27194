package worker

import (
	"context"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum answers with the CRC-32C of each tensor, for which it reads every byte where it lies: {"x": 305419896}.
func checksum(_ context.Context, req *Request) (*Reply, error) {
	sums := make(map[string]uint32, len(req.Tensors))
	for i := range req.Tensors {
		t := &req.Tensors[i]
		sums[t.Name] = crc32.Checksum(t.Data, castagnoli)
	}
	return &Reply{Body: sums}, nil
}
