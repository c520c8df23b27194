package supervisor_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// A Go program can run workers itself, without a server beside it. Here the workers are the test binary; yours are any program that serves with one of the SDKs,
// such as {"python", "worker.py"}.
func Example() {
	program, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	s, err := supervisor.New(supervisor.Config{
		Pools: []supervisor.PoolConfig{{
			Name:    "echo",
			Command: []string{program, "worker", "--builtin", "echo"},
			Workers: 2,
			Timeout: 10 * time.Second,
		}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err) // names the field that is wrong
	}

	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }() // keeps the workers alive until end is called
	defer func() {
		end()
		if err := <-ended; err != nil { // every worker has gone
			log.Fatal(err)
		}
	}()
	if err := s.WaitReady(ctx); err != nil {
		log.Fatal(err)
	}

	body, err := ipc.Marshal(map[string]string{"text": "hello"})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := s.Do(ctx, &ipc.Request{Pool: "echo", Action: "echo", Body: body}) // a stream: Call
	if err != nil {
		log.Fatal(err)
	}
	var answer map[string]string
	if err := reply.Body.Decode(&answer); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer["text"])
	// Output: hello
}
