package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roleVariable makes this test binary a worker process.
const roleVariable = "RINGMASTER_TEST_WORKER"

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleVariable); ok {
		os.Exit(runChild(role))
	}
	os.Exit(m.Run())
}

// runChild is the main function of a worker process, as its author would write it.
func runChild(role string) int {
	actions, _ := Builtin("echo")
	var opts []Option
	switch role {
	case "builtin":
	case "no actions":
		actions = nil
	case "both kinds":
		actions = Actions{"both": {Unary: echo, Stream: count}}
	case "load":
		opts = append(opts, WithLoad(func(context.Context) error {
			fmt.Println("loading") // to the log: stdout is stderr by now
			return nil
		}))
	case "load fails":
		opts = append(opts, WithLoad(func(context.Context) error { return errors.New("no such model") }))
	case "load for ever":
		opts = append(opts, WithLoad(func(context.Context) error {
			fmt.Println("loading")
			select {}
		}))
	case "context":
		ctx, cancel := context.WithCancelCause(context.Background())
		actions = Actions{"end": {Unary: func(ctx context.Context, _ *Request) (*Reply, error) {
			cancel(errors.New("had enough"))
			<-ctx.Done()
			return nil, ctx.Err()
		}}}
		return exit(Serve(ctx, actions))
	default:
		panic("no such role: " + role)
	}
	return exit(Serve(context.Background(), actions, opts...))
}

func exit(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// checkLeaks fails the test if it leaves a goroutine behind. Call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// await waits for ch to be closed, or to yield.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
		panic("not reached")
	}
}

// bounded is a context in which nothing waits for ever.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
