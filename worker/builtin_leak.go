package worker

import (
	"context"
	"os"
	"sync"
)

var leaked struct {
	sync.Mutex
	blocks [][]byte // guarded by the mutex
	mib    int      // guarded by the mutex
}

// leak takes body.mib more MiB of memory, touches every page and never gives it back. It answers with how much that makes.
func leak(_ context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"mib": 16}`)
	mib := a.integer("mib", 0, 0, 1<<20)
	if a.err != nil {
		return nil, a.err
	}
	block := make([]byte, mib<<20)
	for i := 0; i < len(block); i += os.Getpagesize() {
		block[i] = 1
	}
	leaked.Lock()
	defer leaked.Unlock()
	leaked.blocks = append(leaked.blocks, block)
	leaked.mib += mib
	return &Reply{Body: map[string]int{"mib": leaked.mib}}, nil
}
