package supervisor

import (
	"reflect"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// What workers declare of their actions is in the status and in the list of pools.
func TestSignaturesAreTold(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	want := map[string]ipc.Signature{"declared": declared}
	if got := h.byName("test").status().Signatures; !reflect.DeepEqual(got, want) {
		t.Errorf("the status has %+v", got)
	}
	var list ipc.PoolList
	if err := h.control("pools", nil, &list); err != nil || !reflect.DeepEqual(list.Pools[0].Signatures, want) {
		t.Errorf("the list has %+v, %v", list.Pools, err)
	}
}
