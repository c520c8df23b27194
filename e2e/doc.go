// Package e2e tests the product as its users meet it: the built binary, real workers in Go and Python, a real language model, both SDKs. It has no code of its own beside its tests.
package e2e
