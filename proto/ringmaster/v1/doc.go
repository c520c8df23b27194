// Package ringmasterv1 is Ringmaster's gRPC service and its client, generated from ringmaster.proto by scripts/proto. The server is the gateway's; a client in Go that has no reason for gRPC uses package client.
package ringmasterv1
