// Package inference is the Open Inference Protocol's gRPC service, generated from inference.proto by scripts/proto.
package inference
