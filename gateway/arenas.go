package gateway

import (
	"github.com/ringmasterd/ringmaster/internal/arena"
)

// Arenas say how much shared memory clients may have for large tensors.
type Arenas struct {
	Off    bool  // there are none
	Client int64 // bytes, of one process; 0: 256 MiB, or an eighth of the machine's (or the cgroup's) memory if that is less
	Total  int64 // bytes, of all; 0: 1 GiB, or half of that memory if that is less, and at least Client
}

const (
	clientArenas, clientArenasPart = 256 << 20, 8
	totalArenas, totalArenasPart   = 1 << 30, 2

	arenasOfOne = 64 // regions of one process
)

func (a Arenas) validate() error {
	switch {
	case a.Client < 0:
		return &FieldError{"arenas.client", a.Client, "use 0 for none, or a size such as 256MiB"}
	case a.Total < 0:
		return &FieldError{"arenas.total", a.Total, "use a positive size such as 1GiB"}
	case a.Total > 0 && a.Total < a.Client:
		return &FieldError{"arenas.total", a.Total, "use at least as much as arenas.client, what one process may have"}
	}
	return nil
}

// within is the policy: how much there may be on a machine with so much memory.
func (a Arenas) within(memory int64) arena.Limits {
	if a.Off {
		return arena.Limits{}
	}
	l := arena.Limits{Client: a.Client, Total: a.Total, Regions: arenasOfOne}
	if l.Client == 0 {
		l.Client = min(clientArenas, memory/clientArenasPart)
		if l.Total > 0 {
			l.Client = min(l.Client, l.Total)
		}
	}
	if l.Total == 0 {
		l.Total = max(min(totalArenas, memory/totalArenasPart), l.Client)
	}
	return l
}

// NewArenas makes what keeps the arenas of a server with this configuration: its Lent.
func (c Config) NewArenas() *arena.Store {
	l := c.Arenas.within(machineMemory())
	l.Files = maxDescriptors() / 8 // connections and workers need some, too
	return arena.New(l)
}

// lends says what the hello of a connection with rings tells of arenas.
func (s *server) lends(rings bool) uint64 {
	if !rings {
		return 0
	}
	return uint64(s.cfg.Lent.Most())
}
