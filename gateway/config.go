package gateway

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Config tunes [Serve]. The zero values of its fields are the defaults named beside them.
type Config struct {
	MaxMessage     int           // bytes, both ways; 0: 64 MiB
	Memory         int64         // bytes that requests which have not ended and replies that wait for their clients may take in all; 0: a quarter of the machine's (or the cgroup's) memory, at least 4 × MaxMessage
	MaxInFlight    int           // open requests per connection; 0: 1024
	MaxConnections int           // at a time; 0: 1024, or a quarter of the descriptors this process may open if that is less
	Clients        Limits        // of each client
	Arenas         Arenas        // shared memory for large tensors
	Lent           *arena.Store  // keeps them; nil: NewArenas'
	StallTimeout   time.Duration // how long a client may leave its replies unread; 0: 10 s
	ReadTimeout    time.Duration // how long a client that has begun a frame may go on with less than 64 KiB; 0: 10 s
	WriteTimeout   time.Duration // how long a client may take less than 64 KiB of what is written to it; 0: 10 s
	DrainTimeout   time.Duration // how long requests in flight may take once ctx has ended; 0: 30 s
	Logger         *slog.Logger  // nil: slog.Default()

	Gate    Gate     // who may come in and ask; nil: whoever the socket itself lets in, and nobody by TCP
	Origins []string // of web pages that may ask by TCP, such as http://localhost:3000

	Collectors []prometheus.Collector // what the call chain has counted, for GET /metrics
	Gauge      *MemoryGauge           // is told how much of Memory is taken; nil: nobody asks

	helloTimeout time.Duration // how long a client may take to say hello; 0: 10 s
}

// Limits are of one client, a process, on all its connections together.
type Limits struct {
	Connections int // open at a time; 0: 64
	InFlight    int // open requests; 0: 4096
}

// leastMemory is how many of the largest messages there must be room for: one client alone may hold half of the memory, and two of them a third each.
const leastMemory = 4

// FieldError says which field of a [Config] is wrong.
type FieldError struct {
	Field string // as in the configuration file, such as clients.connections
	Value any
	Want  string // what would be right
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Field, e.Value, e.Want) }

// Validate reports the first field that is wrong, as a [*FieldError].
func (c Config) Validate() error {
	largest := int64(c.MaxMessage)
	if largest == 0 {
		largest = ipc.DefaultMaxMessage
	}
	switch least := leastMemory * largest; {
	case c.Memory < 0, c.Memory > 0 && c.Memory < least:
		return &FieldError{"memory", c.Memory, fmt.Sprintf("use at least %d bytes, 4 times max_message, or a smaller max_message", least)}
	case c.Clients.Connections < 0:
		return &FieldError{"clients.connections", c.Clients.Connections, "use a number of 1 or more"}
	case c.Clients.InFlight < 0:
		return &FieldError{"clients.in_flight", c.Clients.InFlight, "use a number of 1 or more"}
	}
	return c.Arenas.validate()
}

// WithMemory returns the configuration with Memory filled in.
func (c Config) WithMemory() Config {
	if c.MaxMessage == 0 {
		c.MaxMessage = ipc.DefaultMaxMessage
	}
	if c.Memory == 0 {
		c.Memory = max(machineMemory()/4, leastMemory*int64(c.MaxMessage))
	}
	return c
}

func (c Config) withDefaults() Config {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	c = c.WithMemory()
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1024
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = min(1024, maxDescriptors()/4) // one with rings has three; workers need some, too
	}
	if c.Clients.Connections == 0 {
		c.Clients.Connections = 64
	}
	if c.Clients.InFlight == 0 {
		c.Clients.InFlight = 4096
	}
	if c.Lent == nil {
		c.Lent = c.NewArenas()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	def(&c.StallTimeout, 10*time.Second)
	def(&c.ReadTimeout, 10*time.Second)
	def(&c.WriteTimeout, 10*time.Second)
	def(&c.DrainTimeout, 30*time.Second)
	def(&c.helloTimeout, 10*time.Second)
	return c
}

// maxDescriptors is how many files this process may have open.
func maxDescriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}
