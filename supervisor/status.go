package supervisor

import (
	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Status is what `ringmaster status --json` prints.
type Status struct {
	Version string  `json:"version" msgpack:"version"`
	UptimeS float64 `json:"uptime_s" msgpack:"uptime_s"`
	PID     int     `json:"pid" msgpack:"pid"`

	Goroutines int `json:"goroutines" msgpack:"goroutines"` // of the supervisor's process

	Memory Memory      `json:"memory" msgpack:"memory"` // of clients
	GPUs   []GPU       `json:"gpus" msgpack:"gpus"`     // of the machine, as nvidia-smi tells; none where it does not
	Arenas arena.Usage `json:"arenas" msgpack:"arenas"` // shared memory that clients have for large tensors

	Pools []PoolStatus `json:"pools" msgpack:"pools"`

	Pipelines []PipelineStatus `json:"pipelines" msgpack:"pipelines"` // by [Config].OnStatus: they are none of the supervisor's
}

// PipelineStatus describes a pipeline, which is called like a pool, and asks pools.
type PipelineStatus struct {
	Name    string   `json:"name" msgpack:"name"`
	Actions []string `json:"actions" msgpack:"actions"`
	Steps   []string `json:"steps" msgpack:"steps"`
}

// Memory is what the requests and waiting replies of clients take, and may take, in bytes; a limit of 0 is not known.
type Memory struct {
	Used  int64 `json:"used" msgpack:"used"`
	Limit int64 `json:"limit" msgpack:"limit"`
}

// GPU is one GPU, a few seconds ago.
type GPU struct {
	Index        int    `json:"index" msgpack:"index"`
	Name         string `json:"name" msgpack:"name"`
	BusyPercent  int    `json:"busy_percent" msgpack:"busy_percent"`
	MemoryUsed   uint64 `json:"memory_used" msgpack:"memory_used"` // bytes
	MemoryTotal  uint64 `json:"memory_total" msgpack:"memory_total"`
	TemperatureC int    `json:"temperature_c" msgpack:"temperature_c"`
}

// PoolStatus describes one pool. State is ready (a worker can take requests), loading, draining, drained, backoff or failed.
type PoolStatus struct {
	Name     string            `json:"name" msgpack:"name"`
	State    string            `json:"state" msgpack:"state"`
	Queued   int               `json:"queued" msgpack:"queued"`
	InFlight int               `json:"in_flight" msgpack:"in_flight"`
	Actions  []string          `json:"actions" msgpack:"actions"`
	Workers  []WorkerStatus    `json:"workers" msgpack:"workers"`
	Exits    map[string]uint64 `json:"exits" msgpack:"exits"`     // how many of its processes have ended, by [Exit].Cause
	Batches  map[int]uint64    `json:"batches" msgpack:"batches"` // how often a call had so many requests, of actions whose requests are gathered

	Signatures map[string]ipc.Signature `json:"signatures,omitempty" msgpack:"signatures,omitempty"` // of the actions whose inputs and outputs its workers declare
}

// WorkerStatus describes one slot and its current process.
type WorkerStatus struct {
	Slot       int     `json:"slot" msgpack:"slot"`
	PID        int     `json:"pid" msgpack:"pid"`
	State      string  `json:"state" msgpack:"state"` // starting, loading, ready, draining, backoff, failed
	InFlight   int     `json:"in_flight" msgpack:"in_flight"`
	Restarts   int     `json:"restarts" msgpack:"restarts"`
	Requests   uint64  `json:"requests" msgpack:"requests"`
	RSSBytes   uint64  `json:"rss_bytes" msgpack:"rss_bytes"`
	VRAMBytes  uint64  `json:"vram_bytes" msgpack:"vram_bytes"` // of the GPUs' memory; 0 where nvidia-smi does not tell
	CPUPercent float64 `json:"cpu_percent" msgpack:"cpu_percent"`
	FDs        int     `json:"fds" msgpack:"fds"`
	Devices    string  `json:"devices" msgpack:"devices"` // CUDA_VISIBLE_DEVICES; "" if not set
	SDK        string  `json:"sdk" msgpack:"sdk"`
	UptimeS    float64 `json:"uptime_s" msgpack:"uptime_s"`
	LastExit   *Exit   `json:"last_exit" msgpack:"last_exit"`
}

// Exit says how a slot's previous process ended.
type Exit struct {
	Cause  string   `json:"cause" msgpack:"cause"`   // spawn (it did not start), exited, signal, oom_killed (by the kernel, for want of memory), protocol, handshake, load_timeout, hung, recycled, restarted, stopped
	Detail string   `json:"detail" msgpack:"detail"` // e.g. "signal: killed", "exit status 3"
	Stderr []string `json:"stderr" msgpack:"stderr"` // its last lines
}

// Health is the answer to a health request: one entry for each pool asked about.
type Health struct {
	Pools []PoolHealth `json:"pools" msgpack:"pools"`
}

// PoolHealth is a pool's: OK only if a frame made the round trip through one of its ready workers.
type PoolHealth struct {
	Name    string  `json:"name" msgpack:"name"`
	OK      bool    `json:"ok" msgpack:"ok"`
	RoundMS float64 `json:"round_trip_ms" msgpack:"round_trip_ms"`
	Error   string  `json:"error,omitempty" msgpack:"error,omitempty"`
}
