package supervisor

import (
	"context"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Reloaded says what a reload changed: names of pools, sorted.
type Reloaded struct {
	Added     []string `json:"added" msgpack:"added"`
	Removed   []string `json:"removed" msgpack:"removed"`
	Changed   []string `json:"changed" msgpack:"changed"`
	Unchanged []string `json:"unchanged" msgpack:"unchanged"`
}

// Reload makes the supervisor run what cfg says without losing a request: pools that are new are started, those that are gone are drained and stopped, those that changed
// get the new values, with their workers replaced one by one where a process cannot take them over; the others are left alone. A configuration that is not valid changes nothing and
// is returned as a [*FieldError].
func (s *Supervisor) Reload(ctx context.Context, cfg Config) (Reloaded, error) {
	return Reloaded{}, ipc.Errorf(ipc.Unimplemented, "reload", "not yet")
}
