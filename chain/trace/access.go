package trace

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// accessRate is how many requests a second are logged, failed ones and others apart, and accessBurst how many of either at once.
const accessRate, accessBurst = 100, 1000

// access is the access log: a line for each request, unless there are too many. The zero value is ready.
type access struct {
	mu      sync.Mutex
	room    [2]room // guarded by mu: for those that went well, and for those that failed
	leftOut int     // guarded by mu: since the last line
}

// room is a bucket of tokens, a function of the times that it is given.
type room struct {
	tokens float64
	at     time.Time
}

// take reports whether there is a token, and takes it.
func (b *room) take(now time.Time) bool {
	if b.at.IsZero() {
		b.tokens = accessBurst
	} else {
		b.tokens = min(accessBurst, b.tokens+accessRate*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// wants reports whether requests are logged, and at which level: at info if that is wanted, else at debug.
func (a *access) wants(logger *slog.Logger, wanted bool) (slog.Level, bool) {
	level := slog.LevelDebug
	if wanted {
		level = slog.LevelInfo
	}
	return level, logger.Enabled(context.Background(), level)
}

// log logs a request that has ended.
func (a *access) log(logger *slog.Logger, level slog.Level, r *record, now time.Time) {
	if leftOut, ok := a.admit(r.outcome != nil, now); ok {
		logger.LogAttrs(context.Background(), level, "request", accessLine(r, leftOut)...)
	}
}

// admit reports whether a line may be written, and how many were not before it.
func (a *access) admit(failed bool, now time.Time) (leftOut int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := 0
	if failed {
		i = 1
	}
	if !a.room[i].take(now) {
		a.leftOut++
		return 0, false
	}
	leftOut, a.leftOut = a.leftOut, 0
	return leftOut, true
}

func accessLine(r *record, leftOut int) []slog.Attr {
	line := make([]slog.Attr, 0, 20)
	line = append(line, slog.String("pool", r.pool), slog.String("action", r.action))
	if r.traced {
		line = append(line, slog.String("trace_id", hexadecimal(r.trace[:])))
	}
	if r.address != "" {
		line = append(line, slog.String("address", r.address))
	} else {
		line = append(line, slog.Uint64("uid", uint64(r.client.UID)), slog.Int("pid", int(r.client.PID)))
	}
	if r.principal != "" {
		line = append(line, slog.String("principal", r.principal))
	}
	line = append(line, slog.String("protocol", r.protocol), slog.String("code", codeOf(r.outcome)))
	if r.outcome != nil {
		line = append(line, slog.String("reason", r.outcome.Reason))
	}
	line = append(line, slog.Int("bytes_in", r.in), slog.Int("bytes_out", r.out), slog.Int("chunks", r.chunks), slog.Float64("queue_ms", milliseconds(r.queue)), slog.Float64("took_ms", milliseconds(r.took)))
	if r.attempts > 0 {
		line = append(line, slog.String("worker", workerName(r)), slog.Int("worker_pid", int(r.try(r.last).PID)))
	}
	if r.attempts > 1 {
		line = append(line, slog.Int("attempts", r.attempts))
	}
	if leftOut > 0 {
		line = append(line, slog.Int("left_out", leftOut))
	}
	return line
}

// workerName names the worker that had the request last, as `ringmaster status` does.
func workerName(r *record) string {
	last := r.try(r.last)
	return fmt.Sprintf("%s/%d", last.Pool, last.Slot)
}

// codeOf is an outcome's code; OK for nil.
func codeOf(e *ipc.Error) string {
	if e == nil {
		return "OK"
	}
	return string(e.Code)
}
