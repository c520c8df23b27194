// Command peers measures an echo from an app to a worker process and back, through Ringmaster and, in the same run, through the plain control: gRPC over Unix sockets.
//
//	ringmaster            client ══ring══▶ gateway + supervisor ══ring══▶ worker
//	ringmaster-socket     client ──Unix socket──▶ gateway + supervisor ══ring══▶ worker
//	ringmaster-embedded   client + supervisor ══ring══▶ worker
//	grpc-uds              client ──Unix socket──▶ gRPC server ──Unix socket──▶ gRPC worker
//
// Every box is a process of its own: this program, started again in a role. Each measurement has processes of its own, nothing else of the harness runs meanwhile, and the transports take turns. The processor time
// counted is that of all boxes together.
//
//	cd bench/peers && go run . [-quick] [-json FILE] [-only REGEXP] [-profile DIR]
//
// Read in this order: plan.go (what is measured), run.go (processes), load.go (requests), ringmaster.go and grpc.go (the transports), usage.go (processor time), report.go (tables).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"

	"github.com/ringmasterd/ringmaster/supervisor"
	"github.com/ringmasterd/ringmaster/worker"
)

func main() {
	if done, err := playRole(os.Args[1:]); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "one short round of everything: does it work?")
	jsonPath := flag.String("json", "", "write every single measurement to this file")
	only := flag.String("only", "", "measure what matches this regular expression, e.g. '^(ringmaster|grpc-uds)/64B/64$'")
	profile := flag.String("profile", "", "have every process write a CPU profile and its allocations into this directory")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	p := fullPlan()
	if *quick {
		p = quickPlan()
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	h, err := newHarness(*profile, os.Stderr)
	if err != nil {
		return err
	}
	defer h.close()
	r := newReport()
	if err := h.run(ctx, p, pattern.MatchString, r); err != nil {
		return err
	}
	r.finish()
	r.print(os.Stdout)
	if *jsonPath == "" {
		return nil
	}
	return r.write(*jsonPath)
}

// playRole runs this process as one of the boxes, if args say so. "worker" and "guard" are how a supervisor starts its Executable.
func playRole(args []string) (done bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	defer startProfile(args[0])()
	ctx := context.Background()
	switch args[0] {
	case "guard":
		supervisor.RunGuard(os.Stdin)
		return true, nil
	case "worker":
		actions, _ := worker.Builtin("echo")
		return true, worker.Serve(ctx, actions)
	case "grpc-worker":
		return true, serveGRPCWorker(args[1])
	case "server":
		return true, serve(ctx, args[1:])
	case "client":
		return true, runClient(ctx, args[1])
	}
	return false, nil
}
