package drive

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/ringmasterd/ringmaster/bench/usage"
)

// Cost is processor time for each request answered, in microseconds.
type Cost struct {
	Client     float64 `json:"client"` // this process, which makes, times and checks the requests
	Supervisor float64 `json:"supervisor"`
	Workers    float64 `json:"workers"` // of the pool, with the processes that they started
}

// meter is what the processes had used when a measurement began.
type meter struct {
	known                       bool
	supervisor                  int
	workers                     []int
	client, server, pool, whole usage.Usage
}

// meter reads the clocks. Where that cannot be, t.unknown says why.
func (t *target) meter(ctx context.Context) meter {
	m := meter{supervisor: t.status.PID}
	m.client, _ = usage.Of(os.Getpid())
	m.whole = m.client
	if err := t.look(ctx); err != nil { // workers may have been replaced
		t.unknown = "the cost of a request is not told: " + err.Error()
		return m
	}
	m.supervisor = t.status.PID
	for _, p := range t.status.Pools {
		for _, w := range p.Workers {
			if p.Name != t.pool || w.PID == 0 {
				continue
			}
			if usage.Parent(w.PID) != m.supervisor {
				t.unknown = fmt.Sprintf("the cost of a request is not told: process %d, a worker for the server, is not the server's child here; the server runs in another PID namespace", w.PID)
				return m
			}
			m.workers = append(m.workers, usage.Tree(w.PID)...)
		}
	}
	return t.start(m)
}

// start takes the readings, all of them as close together as can be.
func (t *target) start(m meter) meter {
	var err error
	if m.server, m.pool, err = m.read(); err != nil {
		t.unknown = "the cost of a request is not told: " + err.Error()
		return m
	}
	m.client, err = usage.Of(os.Getpid())
	m.known, m.whole = err == nil, m.client
	return m
}

func (m *meter) read() (server, pool usage.Usage, err error) {
	if pool, err = usage.Of(m.workers...); err != nil {
		return
	}
	server, err = usage.Of(m.supervisor)
	return
}

// read returns what each request has cost since the meter was made, nil if that cannot be told; and the share of the machine that others took.
func (t *target) read(m meter, requests int, elapsed time.Duration) (*Cost, float64) {
	client, err := usage.Of(os.Getpid())
	if err != nil || elapsed <= 0 {
		return nil, 0
	}
	client = client.Since(m.client)
	ours := client.CPU
	var cost *Cost
	if server, pool, err := m.read(); m.known && err == nil && requests > 0 {
		server, pool = server.Since(m.server), pool.Since(m.pool)
		ours += server.CPU + pool.CPU
		each := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(requests) }
		cost = &Cost{Client: each(client.CPU), Supervisor: each(server.CPU), Workers: each(pool.CPU)}
	} else if m.known && err != nil {
		t.unknown = "the cost of a request is not told in every row: a worker ended meanwhile: " + err.Error()
	}
	return cost, min(1, max(0, (client.Machine-ours).Seconds()/elapsed.Seconds()/float64(runtime.NumCPU())))
}
