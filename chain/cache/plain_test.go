package cache

import (
	"reflect"
	"slices"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// A field that is new in a message may count for its answer, refer to memory that is not the message's, or have to be copied. Whoever adds one decides that, in key.go, plain.go and entry.go, and then names it here.
func TestKnowsEveryField(t *testing.T) {
	for _, tt := range []struct {
		message any
		fields  []string
	}{
		{ipc.Request{}, []string{
			"Pool", "Action", "Body", "Tensors", "Context", "Headers", "Client", "Principal", // in the key
			"ID", "TraceID", "Timeout", "Credit", "Held", "Batch", "Background", "Yield", "Affinity", "Protocol", "Times", "charge", "responder", // about this request only
			"Outputs", "Arenas", // such requests pass by
		}},
		{ipc.Reply{}, []string{"ID", "End", "Headers", "Body", "Tensors", "Err", "Context", "Leased"}},
		{ipc.Tensor{}, []string{"Name", "DType", "Shape", "Data", "At"}},
	} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(tt.message)) {
			if !slices.Contains(tt.fields, f.Name) {
				t.Errorf("%T has the field %s, of which the cache knows nothing: see this test's comment", tt.message, f.Name)
			}
		}
	}
}
