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
	for _, name := range differing(was.Resilience.Pools, is.Resilience.Pools) {
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
