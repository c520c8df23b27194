package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// unrest is what happens around the pools' workers: operators who restart and reload, clients that are killed, flood, or do not read.
type unrest struct {
	srv      *server
	tally    *Tally
	promises Promises
	rng      *rand.Rand
	injected *counts
	missing  *counts // what this version cannot do
	ids      *numbers
	clients  uint16 // the next client process's number
	changed  bool   // the file is not the first one
	kept     bool   // the last reload left a pool as it was
	reloads  int
}

// every runs what comes in turn, pause apart, until stop is closed.
func every(ctx context.Context, stop <-chan struct{}, rng *rand.Rand, pause time.Duration, turns ...func(context.Context)) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + time.Duration(rng.Int64N(int64(pause)))):
		}
		turns[i%len(turns)](ctx)
	}
}

// operate is what operators do.
func (u *unrest) operate(ctx context.Context, stop <-chan struct{}) {
	every(ctx, stop, u.rng, 3*time.Second, u.reload, u.restart)
	for tries := 0; (u.changed || u.kept) && tries < 5 && ctx.Err() == nil; tries++ {
		u.changed = true
		u.reload(ctx) // back to the first
	}
}

// misuse is what clients do.
func (u *unrest) misuse(ctx context.Context, stop <-chan struct{}) {
	every(ctx, stop, u.rng, 2*time.Second, u.killClient, u.deafClient, u.floodClient)
}

func (u *unrest) pool() string {
	names := slices.Sorted(maps.Keys(u.srv.pools))
	return names[u.rng.IntN(len(names))]
}

func (u *unrest) restart(ctx context.Context) {
	pool := u.pool()
	u.injected.add("restart " + pool)
	if err := u.srv.ask(ctx, "restart", pool, 90*time.Second, nil); err != nil && ctx.Err() == nil {
		u.tally.breaks("`restart %s` failed: %v", pool, err)
	}
}

// reload changes the configuration, or changes it back.
func (u *unrest) reload(ctx context.Context) {
	pools := maps.Clone(u.srv.pools)
	if !u.changed {
		p := pools[wide]
		p.Workers, p.Timeout, p.Queue = p.Workers+1, "45s", p.Queue+1
		pools[wide] = p
		p = pools[narrow]
		p.Env = maps.Clone(p.Env)
		p.Env["RINGMASTER_CHAOS_RELOAD"] = fmt.Sprint(u.reloads)
		pools[narrow] = p
		p.Workers = 1
		pools[extra] = p
	}
	if err := u.srv.configure(pools); err != nil {
		u.tally.breaks("write the configuration: %v", err)
		return
	}
	err := u.inForce(ctx, pools)
	var e *ipc.Error
	switch {
	case errors.As(err, &e) && (e.Code == ipc.Unimplemented || e.Reason == "unknown_action"):
		u.missing.add("reload")
		if err := u.srv.configure(u.srv.pools); err != nil {
			u.tally.breaks("write the configuration: %v", err)
		}
		return
	case err != nil && ctx.Err() == nil:
		u.tally.breaks("reload failed: %v", err)
	}
	u.changed = !u.changed
	u.reloads++
}

// inForce has the server take over the configuration: by request, and every third time by SIGHUP.
func (u *unrest) inForce(ctx context.Context, pools map[string]poolYAML) error {
	if u.kept || u.reloads%3 != 2 { // a server that does not know reload would die of a SIGHUP
		var answer supervisor.ReloadAnswer
		err := u.srv.ask(ctx, "reload", "", 90*time.Second, &answer)
		if err == nil {
			u.injected.add("reload")
			if u.kept = len(answer.Kept) > 0; u.kept { // its new workers were killed before they had answered anything
				u.injected.add("reload that kept pools")
			}
		}
		return err
	}
	u.kept = false
	u.injected.add("reload by SIGHUP")
	if err := u.srv.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	return poll(limited, "the configuration of SIGHUP", func() (bool, error) {
		st, err := u.srv.status(limited)
		if err != nil {
			return false, err
		}
		for _, p := range st.Pools {
			if len(p.Workers) != pools[p.Name].Workers {
				return false, nil
			}
		}
		return len(st.Pools) == len(pools), nil
	})
}

func (u *unrest) nextClient() uint16 {
	u.clients++
	return u.clients
}

// killClient kills a client in the middle of its requests. They may be run, though not too often.
func (u *unrest) killClient(ctx context.Context) {
	p, err := startClient(u.srv.executable, Spec{Socket: u.srv.socket, Seed: u.rng.Uint64(), Client: u.nextClient(), Pools: []string{u.pool(), wide}, Promises: u.promises})
	if err != nil {
		u.tally.breaks("%v", err)
		return
	}
	select {
	case <-time.After(time.Duration(300+u.rng.IntN(700)) * time.Millisecond):
	case <-ctx.Done():
	}
	p.kill()
	u.injected.add("client killed")
}

// deafClient asks for much and takes nothing of it, and then hangs up.
func (u *unrest) deafClient(ctx context.Context) {
	w, err := greet(ctx, u.srv.socket)
	if err != nil {
		u.tally.breaks("connect: %v", err)
		return
	}
	defer func() { _ = w.Close() }()
	caller := ipc.NewCaller(w, ipc.Events{})
	for range 3 {
		r := newStream(u.ids.take(deaf), wide, 10_000, 64<<10, 0)
		if _, err := caller.Start(&r.req, nil); err != nil {
			u.tally.breaks("send: %v", err)
			return
		}
	}
	u.injected.add("client that does not read")
	select {
	case <-time.After(time.Duration(500+u.rng.IntN(2500)) * time.Millisecond):
	case <-ctx.Done():
	}
}

// floodClient asks for more than the queue holds, all at once.
func (u *unrest) floodClient(context.Context) {
	const n = 900
	p, err := startClient(u.srv.executable, Spec{Socket: u.srv.socket, Client: u.nextClient(), Pools: []string{u.pool()}, Promises: u.promises, Flood: n})
	if err == nil {
		u.injected.add("client that floods")
		var t *Tally
		if t, err = p.wait(2 * patience); err == nil {
			u.tally.add(t)
		}
	}
	if err != nil {
		u.tally.breaks("%v", err)
	}
}
