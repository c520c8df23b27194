package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

// supervised is what the supervisor's status says, as far as it is told on.
type supervised struct {
	Pools []struct {
		Name     string            `msgpack:"name"`
		Queued   int               `msgpack:"queued"`
		InFlight int               `msgpack:"in_flight"`
		Actions  []string          `msgpack:"actions"`
		Exits    map[string]uint64 `msgpack:"exits"`
		Batches  map[int]uint64    `msgpack:"batches"`
		Workers  []struct {
			Slot     int     `msgpack:"slot"`
			Restarts int     `msgpack:"restarts"`
			PID      int     `msgpack:"pid"`
			State    string  `msgpack:"state"`
			RSSBytes float64 `msgpack:"rss_bytes"`
		} `msgpack:"workers"`
	} `msgpack:"pools"`
}

// workerStates are all there are, so that one that no worker is in reads 0.
var workerStates = []string{"starting", "loading", "ready", "draining", "backoff", "failed"}

// supervised takes in a request that has no body, and asks for the supervisor's status.
func (x *exchange) supervised(status any) *ipc.Error {
	if _, e := x.receive(); e != nil {
		return e
	}
	body, e := x.control("status")
	if e != nil {
		return e
	}
	if err := body.Decode(status); err != nil {
		return ipc.AsError(err)
	}
	return nil
}

// metrics answers GET /metrics, in Prometheus's format: what the chain has counted, and how pools, workers and clients are now.
func (w *web) metrics(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	var status supervised
	if e := x.supervised(&status); e != nil {
		x.notReady(e)
		return
	}
	now := prometheus.NewRegistry()
	now.MustRegister(snapshot{w.srv, status})
	for _, p := range status.Pools {
		w.srv.meters.learn(p.Name, "")
		for _, a := range p.Actions {
			w.srv.meters.learn(p.Name, a)
		}
	}
	_ = x.out.SetWriteDeadline(time.Now().Add(w.srv.cfg.StallTimeout)) // fails only where the write will, too
	promhttp.HandlerFor(prometheus.Gatherers{w.srv.meters.registry, now}, promhttp.HandlerOpts{}).ServeHTTP(rw, r)
}

// sizes is a histogram of how often a call had how many requests.
func sizes(calls map[int]uint64, pool string) prometheus.Metric {
	var count uint64
	var sum float64
	below := map[float64]uint64{}
	for size, n := range calls {
		count += n
		sum += float64(size) * float64(n)
	}
	for bound := 1; bound <= ipc.MaxBatch; bound *= 2 {
		below[float64(bound)] = 0
		for size, n := range calls {
			if size <= bound {
				below[float64(bound)] += n
			}
		}
	}
	return prometheus.MustNewConstHistogram(batchSizes, count, sum, below, pool)
}

// snapshot is a collector of what is so at one moment.
type snapshot struct {
	srv    *server
	status supervised
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ringmaster_"+name, help, labels, nil)
}

var (
	buildInfo    = gauge("build_info", "1, with the version.", "version")
	inFlight     = gauge("requests_in_flight", "Requests that workers have.", "pool")
	queued       = gauge("requests_queued", "Requests that wait for a worker.", "pool")
	workers      = gauge("workers", "Workers, by state.", "pool", "state")
	workerMemory = gauge("worker_resident_memory_bytes", "Resident memory of a worker's process.", "pool", "slot")
	exits        = gauge("worker_exits_total", "Worker processes that have ended, by cause.", "pool", "cause")
	restarts     = gauge("worker_restarts_total", "Processes that were started in the place of another.", "pool", "slot")
	batchSizes   = gauge("batch_requests", "How many requests were one call, of the actions whose requests are gathered.", "pool")
	connections  = gauge("connections", "Connections that are open.")
	processes    = gauge("clients", "Processes that have a connection open.")
	memoryUsed   = gauge("client_memory_bytes", "Memory that clients' requests and waiting replies hold.")
	memoryLimit  = gauge("client_memory_limit_bytes", "Memory that they may hold.")
	arenas       = gauge("arenas", "Arenas that clients have: shared memory for large tensors.")
	arenaBytes   = gauge("arena_bytes", "Memory of all arenas.")
	arenaLimit   = gauge("arena_limit_bytes", "Memory that all arenas may take.")
)

// Describe implements [prometheus.Collector].
func (snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, inFlight, queued, workers, workerMemory, exits, restarts, batchSizes, connections, processes, memoryUsed, memoryLimit, arenas, arenaBytes, arenaLimit} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (s snapshot) Collect(ch chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, p := range s.status.Pools {
		tell(inFlight, float64(p.InFlight), p.Name)
		tell(queued, float64(p.Queued), p.Name)
		states, slots, started := map[string]int{}, map[int]bool{}, map[int]int{}
		for _, worker := range p.Workers {
			states[worker.State]++
			if n, known := started[worker.Slot]; !known || worker.Restarts > n {
				started[worker.Slot] = worker.Restarts
			}
			if worker.PID != 0 && !slots[worker.Slot] { // while one takes another's place, there are two of a slot
				slots[worker.Slot] = true
				tell(workerMemory, worker.RSSBytes, p.Name, strconv.Itoa(worker.Slot))
			}
		}
		for _, state := range workerStates {
			tell(workers, float64(states[state]), p.Name, state)
		}
		for slot, n := range started {
			ch <- prometheus.MustNewConstMetric(restarts, prometheus.CounterValue, float64(n), p.Name, strconv.Itoa(slot))
		}
		if len(p.Batches) > 0 {
			ch <- sizes(p.Batches, p.Name)
		}
		for cause, n := range p.Exits {
			ch <- prometheus.MustNewConstMetric(exits, prometheus.CounterValue, float64(n), p.Name, cause)
		}
	}
	open, by := s.srv.clients.count()
	tell(connections, float64(open))
	tell(processes, float64(by))
	tell(memoryUsed, float64(s.srv.clients.memory.Used()))
	tell(memoryLimit, float64(s.srv.clients.memory.Size()))
	lent := s.srv.cfg.Lent.Usage()
	tell(arenas, float64(lent.Regions))
	tell(arenaBytes, float64(lent.Bytes))
	tell(arenaLimit, float64(lent.Limit))
	tell(buildInfo, 1, version.Version)
}
