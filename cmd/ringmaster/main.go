// Command ringmaster runs model workers on this host and calls them.
//
// Its files: main.go and root.go (the command tree), signal.go, exit.go (what an error looks like and its exit status); serve.go with settings.go, check.go (--check), log.go,
// ready.go (progress on a terminal), activate.go (a socket from systemd), notify.go and heart.go (what systemd hears of us); call.go with input.go (--data, --tensor) and output.go; status.go, trace.go (requests' ways), top.go with topmodel.go and topview.go (the live view), health.go, control.go (restart, drain), reload.go, auth.go and authtoken.go, version.go; worker.go (what the
// server starts from this binary); firstprocess_linux.go (serve as a container's first process); bench.go (--chaos); complete.go (names for the shell).
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns the exit status.
func run(args []string) int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	return a.exit(root.Execute())
}
