package cache

import "github.com/ringmasterd/ringmaster/ipc"

// plain reports whether a request is all that it refers to: then it can be compared with others, and asked for others. One with tensors that lie elsewhere may be another one by the time that it is asked.
func plain(req *ipc.Request) bool { return !req.Background && !req.NamesArenas() && here(req.Tensors) }

// here reports whether the bytes of tensors are with them.
func here(tensors []ipc.Tensor) bool {
	for i := range tensors {
		if tensors[i].At.Region != 0 || tensors[i].Data == nil && len(tensors[i].Shape) > 0 {
			return false
		}
	}
	return true
}
