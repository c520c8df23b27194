// Command goworker is a ringmaster worker that upper-cases text.
package main

import (
	"context"
	"log"
	"strings"

	"github.com/ringmasterd/ringmaster/worker"
)

func main() {
	if err := worker.Serve(context.Background(), worker.Actions{"upper": {Unary: upper, Idempotent: true}}); err != nil {
		log.Fatal(err)
	}
}

func upper(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var text string
	err := req.Body.Decode(&text)
	return &worker.Reply{Body: strings.ToUpper(text)}, err
}
