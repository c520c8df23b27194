package chain

import (
	"context"
	"maps"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

type fixed struct{ reply *ipc.Reply }

func (f fixed) Recv(context.Context) (*ipc.Reply, error) { return f.reply, nil }
func (fixed) Cancel(string)                              {}

func TestSilence(t *testing.T) {
	for _, tt := range []struct{ said, want map[string]string }{
		{nil, nil},
		{map[string]string{"k": "v"}, map[string]string{"k": "v"}},
		{map[string]string{"k": "v", "cache": "hit", "age": "0", "degraded": "session", "session-version": "9"}, map[string]string{"k": "v"}},
		{map[string]string{"cache": "hit"}, map[string]string{}},
	} {
		from := &ipc.Reply{End: true, Headers: maps.Clone(tt.said)}
		replies, err := Silence(func(context.Context, *ipc.Request) (ipc.Replies, error) { return fixed{from}, nil })(t.Context(), &ipc.Request{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := replies.Recv(t.Context())
		if err != nil || !maps.Equal(got.Headers, tt.want) || !got.End {
			t.Errorf("%v: %v, %v", tt.said, got, err)
		}
		if !maps.Equal(from.Headers, tt.said) {
			t.Errorf("the worker's own reply was changed: %v", from.Headers)
		}
	}
}
