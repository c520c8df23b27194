package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Spec tells a client process what to do; it arrives as JSON on its stdin, whose end tells it to stop.
type Spec struct {
	Socket   string
	Seed     uint64
	Client   uint16
	Pools    []string
	Promises Promises
	Flood    int // > 0: send so many requests at once, and that is all
}

// RunClient is the life of a client process: it does what the spec on in says, and writes its [Tally] to out as JSON.
func RunClient(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec Spec
	input := json.NewDecoder(in)
	if err := input.Decode(&spec); err != nil {
		return fmt.Errorf("read what to do from stdin: %w", err)
	}
	stop := make(chan struct{})
	go func() { // ends with stdin, at the latest with the process
		defer close(stop)
		_, _ = io.Copy(io.Discard, io.MultiReader(input.Buffered(), in))
	}()
	c := &caller{tally: newTally(), promises: spec.Promises, ids: numbers{client: spec.Client}}
	c.dial = func(ctx context.Context) (line, error) { return dialLib(ctx, spec.Socket, c.tally) }
	defer c.close()
	if spec.Flood > 0 {
		c.dial = func(ctx context.Context) (line, error) {
			return dialWire(ctx, spec.Socket, func(what string) { c.tally.breaks("%s", what) })
		}
		c.flood(ctx, spec.Pools[0], spec.Flood)
	} else {
		c.load(ctx, stop, spec.Seed, newNoise(spec.Seed), spec.Pools)
		c.settle(ctx)
	}
	return json.NewEncoder(out).Encode(c.tally)
}

// flood sends n requests without waiting for an answer, and then waits for all.
func (c *caller) flood(ctx context.Context, pool string, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { _ = c.call(ctx, newTransform(c.ids.take(flood), pool, 2, nil)) })
	}
	wg.Wait()
}

// clientProcess is a client in a process of its own.
type clientProcess struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    bytes.Buffer
	errOut bytes.Buffer
}

func startClient(executable string, spec Spec) (*clientProcess, error) {
	p := &clientProcess{cmd: exec.Command(executable, "bench", "client")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errOut
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a client process: %w", err)
	}
	if err := json.NewEncoder(p.stdin).Encode(spec); err != nil {
		p.kill()
		return nil, fmt.Errorf("tell a client process what to do: %w", err)
	}
	return p, nil
}

// finish tells the client to stop and returns its tally.
func (p *clientProcess) finish(within time.Duration) (*Tally, error) {
	_ = p.stdin.Close()
	return p.wait(within)
}

// wait returns the tally of a client that stops by itself.
func (p *clientProcess) wait(within time.Duration) (*Tally, error) {
	late := time.AfterFunc(within, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	if !late.Stop() {
		return nil, fmt.Errorf("client process %d did not end within %v", p.cmd.Process.Pid, within)
	}
	if err != nil {
		return nil, fmt.Errorf("client process %d: %w: %s", p.cmd.Process.Pid, err, p.errOut.String())
	}
	t := newTally()
	if err := json.Unmarshal(p.out.Bytes(), t); err != nil {
		return nil, fmt.Errorf("what client process %d reports: %w", p.cmd.Process.Pid, err)
	}
	return t, nil
}

// kill ends the client as it is.
func (p *clientProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}
