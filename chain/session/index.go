package session

import (
	"bytes"
	"container/list"
	"strings"
	"time"
)

// entryCost is about what a session takes in memory besides its key and record, in bytes.
const entryCost = 256

// index knows which sessions a store has, how large they are and when they were used, and says which are to go. Who has most gives first: the owner with the most sessions if there are too many, with the most bytes if those
// are too many, and of his the one that was not used for longest. So nobody drives others' sessions out with his own.
//
// It is a pure data structure: its store's lock guards it.
type index struct {
	limits  Limits
	entries map[string]*entry
	owners  map[string]*holding
	bytes   int64
	count   Count // what has gone
}

// entry is one session.
type entry struct {
	key   string
	stamp Stamp
	size  int64
	used  time.Time
	data  []byte // the memory store's
	of    *holding
	place *list.Element // in of.sessions
}

// holding is what one owner has.
type holding struct {
	owner    string
	sessions list.List // of *entry, the one used last in front
	bytes    int64
}

func newIndex(limits Limits) *index {
	return &index{limits: limits, entries: map[string]*entry{}, owners: map[string]*holding{}}
}

// put notes that a session was stored. An older state of one that is there is not news.
func (x *index) put(e *entry) {
	if old := x.entries[e.key]; old != nil {
		if old.stamp.Birth == e.stamp.Birth && old.stamp.Version > e.stamp.Version {
			return
		}
		x.drop(old)
	}
	owner, _, _ := strings.Cut(e.key, "/")
	if e.of = x.owners[owner]; e.of == nil {
		e.of = &holding{owner: owner}
		x.owners[owner] = e.of
	}
	e.size += int64(len(e.key)) + entryCost
	e.place = e.of.sessions.PushFront(e)
	e.of.bytes += e.size
	x.bytes += e.size
	x.entries[e.key] = e
}

// drop forgets a session.
func (x *index) drop(e *entry) {
	delete(x.entries, e.key)
	e.of.sessions.Remove(e.place)
	e.of.bytes -= e.size
	x.bytes -= e.size
	if e.of.sessions.Len() == 0 {
		delete(x.owners, e.of.owner)
	}
}

// expired reports whether a session's time is over.
func (x *index) expired(e *entry, now time.Time) bool { return now.Sub(e.used) >= x.limits.TTL }

// shrink forgets what is to go, except the session of key newest, and returns it.
func (x *index) shrink(now time.Time, newest string) (gone []*entry) {
	for _, h := range x.owners {
		for e := h.last(""); e != nil && x.expired(e, now); e = h.last("") {
			x.drop(e)
			x.count.Expired++
			gone = append(gone, e)
		}
	}
	for len(x.entries) > x.limits.Sessions || x.bytes > x.limits.Bytes {
		e := x.victim(len(x.entries) > x.limits.Sessions, newest)
		if e == nil {
			break
		}
		x.drop(e)
		x.count.Evicted++
		gone = append(gone, e)
	}
	return gone
}

// last is the session that was not used for longest, but for one; nil: there is none.
func (h *holding) last(but string) *entry {
	for p := h.sessions.Back(); p != nil; p = p.Prev() {
		if e := p.Value.(*entry); e.key != but {
			return e
		}
	}
	return nil
}

// victim is the session to go next, to have fewer of them or fewer bytes.
func (x *index) victim(byNumber bool, but string) *entry {
	var worst *entry
	var most int64
	for _, h := range x.owners {
		e, has := h.last(but), h.bytes
		if byNumber {
			has = int64(h.sessions.Len())
		}
		if e != nil && (worst == nil || has > most || has == most && e.used.Before(worst.used)) {
			worst, most = e, has
		}
	}
	return worst
}

// counted is what there is.
func (x *index) counted() Count {
	c := x.count
	c.Known, c.Sessions, c.Bytes = true, len(x.entries), x.bytes
	return c
}

// list lists sessions that have not expired.
func (x *index) list(prefix string, now time.Time) (infos []Info) {
	for k, e := range x.entries {
		if strings.HasPrefix(k, prefix) && !x.expired(e, now) {
			infos = append(infos, e.info(now))
		}
	}
	return infos
}

func (e *entry) info(now time.Time) Info {
	return Info{Key: e.key, Version: e.stamp.Version, Bytes: e.size, Idle: now.Sub(e.used)}
}

// replaces reports whether a commit from one stamp may replace what is there: nil is nothing. One that has expired is nothing as well, though who has read it before may still replace it.
func (x *index) replaces(e *entry, was Stamp, now time.Time) bool {
	switch {
	case e == nil:
		return was == (Stamp{})
	case was == (Stamp{}):
		return x.expired(e, now)
	}
	return e.stamp == was
}

// repeats reports whether a commit finds the record that it is to store, since it was done before.
func (e *entry) repeats(record []byte, is Stamp, data []byte) bool {
	return e.stamp == is && bytes.Equal(record, data)
}
