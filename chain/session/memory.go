package session

import (
	"context"
	"sync"
	"time"
)

// memory keeps sessions in this process; they end with it.
type memory struct {
	mu    sync.Mutex
	index *index // guarded by mu
}

func newMemory(limits Limits) *memory { return &memory{index: newIndex(limits)} }

// Load implements [Store].
func (m *memory) Load(_ context.Context, key string) (Stamp, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.index.entries[key]
	if e == nil || m.index.expired(e, time.Now()) {
		return Stamp{}, nil, nil
	}
	return e.stamp, e.data, nil
}

// Commit implements [Store].
func (m *memory) Commit(_ context.Context, key string, was, is Stamp, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if e := m.index.entries[key]; !m.index.replaces(e, was, now) && (e == nil || !e.repeats(e.data, is, data)) {
		return errConflict
	}
	m.index.put(&entry{key: key, stamp: is, size: int64(len(data)), used: now, data: data})
	m.index.shrink(now, key)
	return nil
}

// Remove implements [Store].
func (m *memory) Remove(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.index.entries[key]
	if e == nil {
		return false, nil
	}
	m.index.drop(e)
	return !m.index.expired(e, time.Now()), nil
}

// List implements [Store].
func (m *memory) List(_ context.Context, prefix string, visit func(Info) bool) error {
	m.mu.Lock()
	infos := m.index.list(prefix, time.Now())
	m.mu.Unlock()
	for _, i := range infos {
		if !visit(i) {
			break
		}
	}
	return nil
}

// Limit implements [Store].
func (m *memory) Limit(l Limits) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index.limits = l
	m.index.shrink(time.Now(), "")
}

// Count implements [Store].
func (m *memory) Count() Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index.counted()
}

// Close implements [Store].
func (m *memory) Close() error { return nil }
