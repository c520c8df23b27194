package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ringmasterd/ringmaster/ipc"
)

// scraped is what /metrics says: a value, or a histogram's count, by name{label,label}, labels in the order of their names.
type scraped map[string]float64

func scrape(t testing.TB, path string) scraped {
	t.Helper()
	status, header, body := ask(t, browser(t, path, 1), "GET", "h/metrics", "")
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %v %s", status, header, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	all := scraped{}
	for name, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			all[name+"{"+strings.Join(labels, ",")+"}"] = value(m)
		}
	}
	return all
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.Gauge.GetValue()
}

func TestMetrics(t *testing.T) {
	b := newBabel()
	status := manager(b.fake, map[string]any{"status": map[string]any{"pools": []map[string]any{{
		"name": "p", "queued": 3, "in_flight": 2, "actions": []string{"echo", "INTERNAL"}, "exits": map[string]int{"signal": 4, "recycled": 1}, "batches": map[int]int{1: 2, 3: 5},
		"workers": []map[string]any{{"slot": 0, "pid": 10, "state": "ready", "rss_bytes": 1000, "restarts": 6}, {"slot": 1, "pid": 0, "state": "backoff"}, {"slot": 0, "pid": 11, "state": "loading", "rss_bytes": 5}},
	}}}})
	s := start(t, backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool == controlPool {
			return status.Call(ctx, req)
		}
		if strings.HasPrefix(req.Pool, "made-up") {
			return nil, ipc.Errorf(ipc.NotFound, "unknown_pool", "no pool %q", req.Pool)
		}
		return b.Call(ctx, req)
	}), Config{Memory: 1 << 30})
	native, c := dial(t, s.path), browser(t, s.path, 1)
	for range 3 {
		native.echo(t)
	}
	rpc(t, c, "p.echo", "[1,2]")
	rpc(t, c, "p.count", "1") // refused for its chunks, and so cancelled
	for i := range 100 {
		rpc(t, c, fmt.Sprintf("made-up-%d.echo", i), "1")
		rpc(t, c, fmt.Sprintf("p.made-up-%d", i), "1")
	}
	scrape(t, s.path) // from here on all that the status names is known
	rpc(t, c, "p.INTERNAL", "1")
	got := scrape(t, s.path)
	for name, want := range map[string]float64{
		"ringmaster_requests_total{echo,OK,p}":           4,
		"ringmaster_requests_total{count,CANCELLED,p}":   1,
		"ringmaster_requests_total{,NOT_FOUND,}":         100,
		"ringmaster_requests_total{,UNKNOWN,p}":          100,
		"ringmaster_requests_total{INTERNAL,INTERNAL,p}": 1,
		"ringmaster_request_queue_seconds{p}":            106,
		"ringmaster_request_compute_seconds{echo,p}":     4,
		"ringmaster_request_compute_seconds{,p}":         100,
		"ringmaster_request_bytes_total{p}":              3 + 3 + 1 + 100 + 1,
		"ringmaster_reply_bytes_total{p}":                3 + 3 + 1,
		"ringmaster_requests_queued{p}":                  3,
		"ringmaster_requests_in_flight{p}":               2,
		"ringmaster_workers{p,ready}":                    1,
		"ringmaster_workers{p,loading}":                  1,
		"ringmaster_workers{p,backoff}":                  1,
		"ringmaster_workers{p,failed}":                   0,
		"ringmaster_worker_exits_total{signal,p}":        4,
		"ringmaster_worker_exits_total{recycled,p}":      1,
		"ringmaster_worker_restarts_total{p,0}":          6,
		"ringmaster_batch_requests{p}":                   7,
		"ringmaster_worker_resident_memory_bytes{p,0}":   1000,
		"ringmaster_clients{}":                           1,
		"ringmaster_client_memory_limit_bytes{}":         1 << 30,
		"ringmaster_arenas{}":                            0,
		"ringmaster_arena_bytes{}":                       0,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s: %v, want %v", name, v, want)
		}
	}
	series := 0
	for name := range got {
		if strings.HasPrefix(name, "ringmaster_") {
			series++
		}
	}
	if series > 50 {
		t.Errorf("%d series: %v", series, got)
	}
	if got["ringmaster_connections{}"] < 2 || got["ringmaster_client_memory_bytes{}"] <= 0 || got["process_open_fds{}"] <= 0 || got["ringmaster_arena_limit_bytes{}"] <= 0 {
		t.Errorf("%v", got)
	}
}

// Metrics that cannot be had say why.
func TestMetricsWithoutSupervisor(t *testing.T) {
	s := start(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) {
		return nil, ipc.Errorf(ipc.Unavailable, "stuck", "nobody answers")
	}), Config{})
	if status, _, body := ask(t, browser(t, s.path, 1), "GET", "h/metrics", ""); status != 503 || !strings.Contains(body, "nobody answers") {
		t.Errorf("%d %s", status, body)
	}
}

// A worker names its actions, and a client its pool, as it likes: what Prometheus would not take, or more than is worth it, is counted under "".
func TestNamesThatAreNoLabels(t *testing.T) {
	m := newMeters()
	for _, bad := range []metered{{"p", "\xf0"}, {"\xf0", "a"}, {"p", strings.Repeat("x", maxNameBytes+1)}} {
		m.learn(bad.pool, bad.action)
		if got := m.of(bad.pool, bad.action); got.metered == (metered{bad.pool, bad.action}) {
			t.Errorf("%.20q has a label", bad)
		}
	}
	for i := range 2 * maxNames {
		m.learn("p", fmt.Sprint(i))
	}
	n := 0
	m.known.Range(func(any, any) bool { n++; return true })
	if n > maxNames {
		t.Errorf("%d names are known", n)
	}
	if got := m.of("p", "7"); got.metered != (metered{"p", "7"}) {
		t.Errorf("%+v", got.metered)
	}
}
