// Command peers measures requests from an app to a worker process and back, through Ringmaster and, in the same run, through what people use instead.
//
//	ringmaster                               client ══ring══▶ gateway + supervisor ══ring══▶ worker
//	ringmaster-socket                        client ──Unix socket──▶ gateway + supervisor ══ring══▶ worker
//	ringmaster-embedded                      client + supervisor ══ring══▶ worker
//	grpc-uds, uds-msgpack, netrpc-uds, zmq   client ──Unix socket──▶ server ──Unix socket──▶ worker
//	goplugin-grpc                            client ──Unix socket──▶ plugin
//	mosec, litserve, ray-serve, triton       client ──HTTP──▶ server ──its own way──▶ Python worker
//	mp-pool                                  client ──pipe──▶ Python worker
//
// Every box is a process of its own: this program, started again in a role, or a Python. Each measurement of the Go transports has processes of its own, nothing else of the harness runs meanwhile, and the transports take
// turns. The processor time counted is that of all boxes together.
//
//	cd bench/peers && go run . [-smoke] [-json FILE] [-page FILE] [-images DIR] [-python PYTHON] [-only REGEXP] [-profile DIR]
//
// BENCH_REPEATS and BENCH_SECONDS say how often and how long each measurement is made.
//
// Read in this order: plan.go (what is measured), peer.go (through what), run.go and process.go (processes), client.go (requests), work.go (what workers do), relay.go (the server in the middle), ringmaster.go, grpc.go,
// goplugin.go, netrpc.go, msgpack.go, zmq.go (the transports), python.go (the Python peers, whose other half is in python/), report.go (medians), page.go (tables and drawings).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"

	"github.com/ringmasterd/ringmaster/supervisor"
)

func main() {
	if done, err := playRole(os.Args[1:]); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, "peers:", os.Args[1]+":", err)
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
	smoke := flag.Bool("smoke", false, "one short round of everything: does it work?")
	jsonPath := flag.String("json", "", "write the rows and every single measurement to this file")
	page := flag.String("page", "", "write tables and drawings into this Markdown file, between its markers")
	images := flag.String("images", "", "where the page's drawings go (default: img beside it)")
	python := flag.String("python", "", "a Python that has the SDK and the Python peers; without it they are not run")
	only := flag.String("only", "", "measure what matches this regular expression, e.g. '^(ringmaster|grpc-uds)/echo/64B/64$'")
	profile := flag.String("profile", "", "have every process of Go write a CPU profile and its allocations into this directory")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	p, err := fullPlan(os.Getenv)
	if err != nil {
		return err
	}
	if *smoke {
		p = smokePlan()
	}
	p.selected = pattern.MatchString

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	h, err := newHarness(*python, *profile, os.Stderr)
	if err != nil {
		return err
	}
	defer h.close()
	r := newReport()
	if err := h.run(ctx, p, r); err != nil {
		return err
	}
	r.finish()
	r.print(os.Stdout)
	if *jsonPath != "" {
		if err := r.write(*jsonPath); err != nil {
			return err
		}
	}
	if *page != "" {
		return r.writePage(*page, *images)
	}
	return nil
}

// playRole runs this process as one of the boxes, if args say so. "rm-worker" and "guard" are how a supervisor starts it.
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
	case "rm-worker":
		return true, serveRingmasterWorker(ctx)
	case "plugin":
		servePlugin()
		return true, nil
	case "worker":
		return true, serveWorker(args[1], args[2])
	case "server":
		return true, serve(ctx, args[1:])
	case "client":
		return true, runClient(ctx, args[1])
	}
	return false, nil
}
