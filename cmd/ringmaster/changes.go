package main

import (
	"maps"
	"reflect"
	"slices"

	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// addLinks adds to what a reload did what it changed for the links of the call chain: pools that are the same to the supervisor but not to them, and pipelines.
func addLinks(done *supervisor.Reloaded, was, is *config.File) {
	for _, name := range slices.Concat(
		differing(was.Resilience.Pools, is.Resilience.Pools),
		differing(was.Cache.Pools, is.Cache.Pools),
		differing(was.Sessions.Pools, is.Sessions.Pools),
	) {
		if i := slices.Index(done.Unchanged, name); i >= 0 {
			done.Unchanged = slices.Delete(done.Unchanged, i, i+1)
			done.Changed = append(done.Changed, name)
		}
	}
	for _, name := range differing(was.Pipelines.Pipelines, is.Pipelines.Pipelines) {
		_, before := was.Pipelines.Pipelines[name]
		switch _, now := is.Pipelines.Pipelines[name]; {
		case !before:
			done.Added = append(done.Added, name)
		case !now:
			done.Removed = append(done.Removed, name)
		default:
			done.Changed = append(done.Changed, name)
		}
	}
	slices.Sort(done.Added)
	slices.Sort(done.Removed)
	slices.Sort(done.Changed)
}

// changedKeys are the keys of the file, pools and pipelines aside, that the links of the call chain go by from now on and did not before.
func changedKeys(was, is *config.File) (keys []string) {
	for _, k := range []struct {
		name string
		of   func(*config.File) any
	}{
		{"auth", func(f *config.File) any { return f.Auth }},
		{"cache", func(f *config.File) any { return f.Cache.MaxBytes }},
		{"log.requests", func(f *config.File) any { return f.Log.Requests }},
		{"prefetch", func(f *config.File) any { return f.Cache.Prefetch }},
		{"sessions", func(f *config.File) any {
			c := f.Sessions
			c.Pools, c.Store, c.Path, c.URL = nil, "", "", "" // the pools' own, and what needs a restart
			return c
		}},
		{"tracing", func(f *config.File) any {
			c := f.Tracing
			c.Requests = false // log.requests
			return c
		}},
	} {
		if !reflect.DeepEqual(k.of(was), k.of(is)) {
			keys = append(keys, k.name)
		}
	}
	return keys
}

// differing returns the keys under which two maps do not have the same, sorted.
func differing[V any](a, b map[string]V) []string {
	both := maps.Clone(a)
	if both == nil {
		both = map[string]V{}
	}
	maps.Copy(both, b)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(both)), func(name string) bool {
		one, ok := a[name]
		other, also := b[name]
		return ok == also && reflect.DeepEqual(one, other)
	})
}
