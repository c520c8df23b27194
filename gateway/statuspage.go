package gateway

import (
	"bytes"
	"cmp"
	"crypto/rand"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

//go:embed statuspage.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageStatus is what the supervisor's status says, as far as the page shows it.
type pageStatus struct {
	Version string  `msgpack:"version"`
	UptimeS float64 `msgpack:"uptime_s"`
	PID     int     `msgpack:"pid"`
	Memory  struct {
		Used  int64 `msgpack:"used"`
		Limit int64 `msgpack:"limit"`
	} `msgpack:"memory"`
	GPUs []struct {
		Index        int    `msgpack:"index"`
		Name         string `msgpack:"name"`
		BusyPercent  int    `msgpack:"busy_percent"`
		MemoryUsed   int64  `msgpack:"memory_used"`
		MemoryTotal  int64  `msgpack:"memory_total"`
		TemperatureC int    `msgpack:"temperature_c"`
	} `msgpack:"gpus"`
	Pools []struct {
		Name     string       `msgpack:"name"`
		State    string       `msgpack:"state"`
		Queued   int          `msgpack:"queued"`
		InFlight int          `msgpack:"in_flight"`
		Actions  []string     `msgpack:"actions"`
		Workers  []pageWorker `msgpack:"workers"`
	} `msgpack:"pools"`
}

type pageWorker struct {
	Slot       int     `msgpack:"slot"`
	PID        int     `msgpack:"pid"`
	State      string  `msgpack:"state"`
	InFlight   int     `msgpack:"in_flight"`
	Requests   uint64  `msgpack:"requests"`
	Restarts   int     `msgpack:"restarts"`
	RSSBytes   int64   `msgpack:"rss_bytes"`
	VRAMBytes  int64   `msgpack:"vram_bytes"`
	CPUPercent float64 `msgpack:"cpu_percent"`
	UptimeS    float64 `msgpack:"uptime_s"`
	Devices    string  `msgpack:"devices"`
	LastExit   *struct {
		Cause  string `msgpack:"cause"`
		Detail string `msgpack:"detail"`
	} `msgpack:"last_exit"`
}

// pageStats is what the call chain tells of the last ten seconds, where it counts.
type pageStats struct {
	Pools []struct {
		Name string    `msgpack:"name"`
		Last pageRates `msgpack:"last_10s"`
	} `msgpack:"pools"`
	Errors []struct {
		TraceID string  `msgpack:"trace_id"`
		Begin   string  `msgpack:"begin"`
		TookMS  float64 `msgpack:"took_ms"`
		Pool    string  `msgpack:"pool"`
		Action  string  `msgpack:"action"`
		Outcome string  `msgpack:"outcome"`
		Message string  `msgpack:"message"`
	} `msgpack:"errors"`
}

type pageRates struct {
	PerSecond float64 `msgpack:"per_s"`
	Failed    float64 `msgpack:"failed_per_s"`
	P50MS     float64 `msgpack:"p50_ms"`
	P99MS     float64 `msgpack:"p99_ms"`
}

// pageView is what the template is given: everything is text, or a number that needs none.
type pageView struct {
	Nonce, Now, Version, Uptime string
	PID                         int
	Live                        bool // it renews itself
	Ready, Pools                int
	Queued, InFlight            int
	PerSecond, Failed           string
	Memory                      *pageShare
	GPUs                        []pageGPU
	Rows                        []pagePool
	Errors                      []pageError
}

type (
	pageShare struct {
		Percent     int
		Used, Limit string
	}
	pageGPU struct {
		Index, Busy int
		Name        string
		Memory      pageShare
		Celsius     int
	}
	pagePool struct {
		Name, State                 string
		Ready, Of, Queued, InFlight int
		PerSecond, Failed           string
		P50, P99                    string
		Actions                     string
		Workers                     []pageSlot
		Well                        bool
		FailedSome                  bool
	}
	pageSlot struct {
		Name, State, Uptime, CPU, Memory, VRAM, Devices, LastExit string
		PID, InFlight, Restarts                                   int
		Requests                                                  uint64
	}
	pageError struct{ When, Pool, Action, Outcome, Trace, Message string }
)

// statusPage answers GET /: what there is, for people. It changes nothing, and needs neither scripts nor anything from elsewhere.
func (w *web) statusPage(rw http.ResponseWriter, r *http.Request) {
	x := w.exchange(rw, r)
	defer x.close()
	var status pageStatus
	if e := x.supervised(&status); e != nil {
		x.notReady(e)
		return
	}
	var stats pageStats
	if body, e := x.control("stats"); e == nil { // a backend without a call chain has none
		_ = body.Decode(&stats)
	}
	view := newPageView(status, stats, time.Now())
	view.Nonce, view.Live = rand.Text(), r.URL.Query().Get("refresh") != "off"
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, view); err != nil {
		x.notReady(ipc.AsError(err))
		return
	}
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", view.Nonce))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	x.write(b.Bytes())
}

// mostRows bounds what the page lists of each kind: a page of thousands is read by nobody.
const mostRows, mostFailures = 512, 10

func newPageView(status pageStatus, stats pageStats, now time.Time) pageView {
	v := pageView{Now: now.UTC().Format("2006-01-02 15:04:05 UTC"), Version: status.Version, PID: status.PID, Uptime: shortTime(status.UptimeS), Pools: len(status.Pools)}
	rates := map[string]pageRates{}
	var all pageRates
	for _, p := range stats.Pools {
		rates[p.Name] = p.Last
		all.PerSecond += p.Last.PerSecond
		all.Failed += p.Last.Failed
	}
	v.PerSecond, v.Failed = shortNumber(all.PerSecond), shortNumber(all.Failed)
	for _, p := range status.Pools {
		v.Queued += p.Queued
		v.InFlight += p.InFlight
		of := rates[p.Name]
		row := pagePool{
			Name: p.Name, State: p.State, Of: len(p.Workers), Queued: p.Queued, InFlight: p.InFlight, PerSecond: shortNumber(of.PerSecond), Failed: shortNumber(of.Failed), FailedSome: of.Failed > 0,
			P50: shortNumber(of.P50MS), P99: shortNumber(of.P99MS), Actions: strings.Join(p.Actions, ", "),
		}
		for _, worker := range p.Workers[:min(len(p.Workers), mostRows)] {
			if worker.State == "ready" {
				row.Ready++
			}
			row.Workers = append(row.Workers, newPageSlot(p.Name, worker))
		}
		if row.Well = p.State == "ready"; row.Well {
			v.Ready++
		}
		v.Rows = append(v.Rows, row)
	}
	slices.SortStableFunc(v.Rows, func(a, b pagePool) int { return cmp.Compare(rank(a), rank(b)) })
	if m := status.Memory; m.Limit > 0 {
		share := newPageShare(m.Used, m.Limit)
		v.Memory = &share
	}
	for _, g := range status.GPUs {
		v.GPUs = append(v.GPUs, pageGPU{g.Index, g.BusyPercent, g.Name, newPageShare(g.MemoryUsed, g.MemoryTotal), g.TemperatureC})
	}
	for _, e := range stats.Errors[:min(len(stats.Errors), mostFailures)] {
		when := e.Begin
		if at, err := time.Parse(time.RFC3339Nano, e.Begin); err == nil {
			when = at.Add(time.Duration(e.TookMS * float64(time.Millisecond))).UTC().Format("15:04:05")
		}
		v.Errors = append(v.Errors, pageError{when, e.Pool, e.Action, e.Outcome, e.TraceID, e.Message})
	}
	return v
}

// rank puts pools that do not answer before the others.
func rank(p pagePool) int {
	if p.Well {
		return 1
	}
	return 0
}

func newPageSlot(pool string, w pageWorker) pageSlot {
	s := pageSlot{
		Name: fmt.Sprintf("%s/%d", pool, w.Slot), State: w.State, Uptime: shortTime(w.UptimeS), CPU: fmt.Sprintf("%.0f %%", w.CPUPercent), Memory: shortSize(w.RSSBytes), VRAM: "–", Devices: w.Devices, LastExit: "–",
		PID: w.PID, InFlight: w.InFlight, Restarts: w.Restarts, Requests: w.Requests,
	}
	if w.VRAMBytes > 0 {
		s.VRAM = shortSize(w.VRAMBytes)
	}
	if e := w.LastExit; e != nil {
		s.LastExit = strings.TrimSuffix(e.Cause+": "+e.Detail, ": ")
	}
	return s
}

func newPageShare(used, limit int64) pageShare {
	s := pageShare{Used: shortSize(used), Limit: shortSize(limit)}
	if limit > 0 {
		s.Percent = int(min(100, max(0, 100*float64(used)/float64(limit))))
	}
	return s
}

func shortNumber(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f < 10:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

func shortSize(b int64) string {
	v := float64(b)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 {
			return strings.Replace(fmt.Sprintf("%.1f %s", v, unit), ".0 ", " ", 1)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.1f TiB", v)
}

func shortTime(seconds float64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d < time.Hour:
		return d.String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
}
