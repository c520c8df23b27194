package worker

import "context"

// echo answers with what it was sent: headers, body and tensors.
func echo(_ context.Context, req *Request) (*Reply, error) {
	return &Reply{Headers: req.Headers, Body: req.Body, Tensors: req.Tensors}, nil
}
