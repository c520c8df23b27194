package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bolt keeps sessions in a file. A commit returns when it is on the disk; those that come at the same time share the way there.
//
//	bucket "sessions 1":  key → stamp (16 bytes) · stored, nanoseconds since 1970 (8 bytes) · record
type bolt struct {
	db *bbolt.DB

	mu    sync.Mutex
	index *index // guarded by mu; without the records
}

var boltBucket = []byte("sessions 1")

const (
	boltLockTimeout = time.Second            // for another process to let go of the file
	boltBatchDelay  = 500 * time.Microsecond // for other commits to come
	boltHead        = stampSize + 8
)

// openBolt opens or makes the file, and finds out what it has.
func openBolt(path string, limits Limits) (*bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltLockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errors.New("another process has it open")
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.MaxBatchDelay = boltBatchDelay
	b := &bolt{db: db, index: newIndex(limits)}
	var found []*entry
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(boltBucket)
		if err != nil {
			return err
		}
		return bucket.ForEach(func(k, v []byte) error {
			if e := boltEntry(k, v); e != nil {
				found = append(found, e)
			}
			return nil
		})
	})
	slices.SortFunc(found, func(x, y *entry) int { return x.used.Compare(y.used) })
	for _, e := range found {
		b.index.put(e)
	}
	if err == nil {
		err = b.shrink("")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), db.Close())
	}
	return b, nil
}

// boltEntry is what a stored value says of its session, nil if it is none.
func boltEntry(k, v []byte) *entry {
	stamp, _, ok := cutStamp(v)
	if !ok || len(v) < boltHead {
		return nil
	}
	used := time.Unix(0, int64(binary.BigEndian.Uint64(v[stampSize:])))
	return &entry{key: string(k), stamp: stamp, size: int64(len(v) - boltHead), used: used}
}

// Load implements [Store].
func (b *bolt) Load(_ context.Context, key string) (stamp Stamp, data []byte, err error) {
	limits := b.limits()
	err = b.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(boltBucket).Get([]byte(key))
		if e := boltEntry(nil, v); e != nil && time.Since(e.used) < limits.TTL {
			stamp, data = e.stamp, bytes.Clone(v[boltHead:])
		}
		return nil
	})
	return stamp, data, err
}

func (b *bolt) limits() Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.index.limits
}

// Commit implements [Store].
func (b *bolt) Commit(_ context.Context, key string, was, is Stamp, data []byte) error {
	now := time.Now()
	v := is.append(make([]byte, 0, boltHead+len(data)))
	v = append(binary.BigEndian.AppendUint64(v, uint64(now.UnixNano())), data...)
	limits := index{limits: b.limits()}
	conflict := false
	err := b.db.Batch(func(tx *bbolt.Tx) error { // may be called again: if another of the batch fails
		bucket := tx.Bucket(boltBucket)
		there := bucket.Get([]byte(key))
		e := boltEntry([]byte(key), there)
		conflict = !limits.replaces(e, was, now) && (e == nil || !e.repeats(there[boltHead:], is, data))
		if conflict {
			return nil
		}
		return bucket.Put([]byte(key), v)
	})
	switch {
	case err != nil:
		return err
	case conflict:
		return errConflict
	}
	b.mu.Lock()
	b.index.put(&entry{key: key, stamp: is, size: int64(len(data)), used: now})
	b.mu.Unlock()
	_ = b.shrink(key) // it is stored; what could not be removed is no longer counted, and goes at the next start
	return nil
}

// shrink removes what is to go.
func (b *bolt) shrink(newest string) error {
	b.mu.Lock()
	gone := b.index.shrink(time.Now(), newest)
	b.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	return b.db.Batch(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(boltBucket)
		for _, e := range gone {
			if now := boltEntry(nil, bucket.Get([]byte(e.key))); now == nil || now.stamp != e.stamp {
				continue // it was stored anew meanwhile
			}
			if err := bucket.Delete([]byte(e.key)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Remove implements [Store].
func (b *bolt) Remove(_ context.Context, key string) (bool, error) {
	limits, there := b.limits(), false
	err := b.db.Batch(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(boltBucket)
		e := boltEntry(nil, bucket.Get([]byte(key)))
		there = e != nil && time.Since(e.used) < limits.TTL
		return bucket.Delete([]byte(key))
	})
	if err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.index.entries[key]; e != nil {
		b.index.drop(e)
	}
	return there, nil
}

// List implements [Store].
func (b *bolt) List(_ context.Context, prefix string, visit func(Info) bool) error {
	b.mu.Lock()
	infos := b.index.list(prefix, time.Now())
	b.mu.Unlock()
	for _, i := range infos {
		if !visit(i) {
			break
		}
	}
	return nil
}

// Limit implements [Store].
func (b *bolt) Limit(l Limits) {
	b.mu.Lock()
	b.index.limits = l
	b.mu.Unlock()
	_ = b.shrink("") // as in Commit
}

// Count implements [Store].
func (b *bolt) Count() Count {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.index.counted()
}

// Close implements [Store].
func (b *bolt) Close() error { return b.db.Close() }
