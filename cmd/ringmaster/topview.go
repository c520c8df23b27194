package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// headLines is how many lines stand above what scrolls.
const headLines = 3

// topOrders are the orders of pools.
var topOrders = map[string]func(a, b topPool) int{
	"pool":    func(topPool, topPool) int { return 0 }, // as they come
	"rate":    func(a, b topPool) int { return cmp.Compare(b.rates.PerSecond, a.rates.PerSecond) },
	"latency": func(a, b topPool) int { return cmp.Compare(b.rates.P99MS, a.rates.P99MS) },
	"memory":  func(a, b topPool) int { return cmp.Compare(b.memory, a.memory) },
}

// topPool is a pool with what it did in the last ten seconds.
type topPool struct {
	supervisor.PoolStatus
	rates  trace.Rates
	ready  int
	memory uint64 // of its workers
}

// topPools are the pools that are shown, in the order that they are shown in.
func (m topModel) topPools() []topPool {
	rates := map[string]trace.Rates{}
	for _, p := range m.now.stats.Pools {
		rates[p.Name] = p.TenSeconds
	}
	var pools []topPool
	for _, p := range m.now.status.Pools {
		if !strings.Contains(strings.ToLower(p.Name), strings.ToLower(m.filter)) {
			continue
		}
		t := topPool{PoolStatus: p, rates: rates[p.Name]}
		for _, w := range p.Workers {
			t.memory += w.RSSBytes
			if w.State == "ready" {
				t.ready++
			}
		}
		pools = append(pools, t)
	}
	slices.SortStableFunc(pools, topOrders[m.order])
	return pools
}

// View implements [tea.Model].
func (m topModel) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	return v
}

// screen is what the terminal is to show.
func (m topModel) screen() string {
	if m.now.at.IsZero() {
		return "asking the server …"
	}
	body := m.body()
	from := min(m.scroll, len(body))
	to := min(from+m.room(), len(body))
	lines := append(m.head(), body[from:to]...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	return m.fit(append(lines, m.foot(len(body)-to)))
}

// whole is a frame with everything in it, for a terminal or without colours.
func (m topModel) whole(colours bool) string {
	frame := m.fit(append(m.head(), m.body()...))
	if !colours {
		return ansi.Strip(frame)
	}
	return frame
}

// fit cuts lines to the terminal's width.
func (m topModel) fit(lines []string) string {
	for i, line := range lines {
		lines[i] = strings.TrimRight(ansi.Truncate(line, m.width, "…"), " ")
	}
	return strings.Join(lines, "\n")
}

var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	good   = lipgloss.NewStyle().Foreground(lipgloss.Green)
	warn   = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	bad    = lipgloss.NewStyle().Foreground(lipgloss.Red)
	title  = lipgloss.NewStyle().Bold(true).Reverse(true)
)

// stateStyle is how a state is painted.
func stateStyle(state string) lipgloss.Style {
	switch state {
	case "ready":
		return good
	case "failed", "backoff":
		return bad
	}
	return warn
}

func (m topModel) head() []string {
	s := m.now.status
	var total trace.Rates
	for _, p := range m.now.stats.Pools {
		total.PerSecond += p.TenSeconds.PerSecond
		total.Failed += p.TenSeconds.Failed
	}
	queued, inFlight := 0, 0
	for _, p := range s.Pools {
		queued += p.Queued
		inFlight += p.InFlight
	}
	first := fmt.Sprintf("%s  pid %d  up %s", strong.Render("ringmaster "+s.Version), s.PID, duration(s.UptimeS))
	if m.failing != nil {
		first += "  " + bad.Render("no answer since "+m.now.at.Format("15:04:05"))
	} else if m.paused {
		first += "  " + warn.Render("paused")
	}
	second := fmt.Sprintf("%s req/s  %s failed/s  %d queued  %d in flight", number(total.PerSecond), number(total.Failed), queued, inFlight)
	if s.Memory.Limit > 0 {
		share := float64(s.Memory.Used) / float64(s.Memory.Limit)
		second += fmt.Sprintf("  clients' memory %s %s of %s", bar(share, 10), size(uint64(s.Memory.Used)), size(uint64(s.Memory.Limit)))
	}
	return []string{first, second, ""}
}

// number is a rate or a time in few digits.
func number(f float64) string {
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

// bar draws a part of a whole.
func bar(part float64, width int) string {
	full := int(max(0, min(1, part))*float64(width) + 0.5)
	style := good
	switch {
	case part > 0.9:
		style = bad
	case part > 0.7:
		style = warn
	}
	return style.Render(strings.Repeat("█", full)) + faint.Render(strings.Repeat("░", width-full))
}

// body is what scrolls.
func (m topModel) body() []string {
	pools := m.topPools()
	lines := m.poolLines(pools)
	if len(m.now.status.GPUs) > 0 {
		lines = append(append(lines, ""), gpuLines(m.now.status.GPUs)...)
	}
	if m.workers {
		lines = append(append(lines, ""), workerLines(pools)...)
	}
	if m.errors && len(m.now.stats.Errors) > 0 {
		lines = append(append(lines, ""), m.errorLines()...)
	}
	return lines
}

func (m topModel) poolLines(pools []topPool) []string {
	mark := func(order, name string) string {
		if m.order == order {
			return name + "▼"
		}
		return name
	}
	t := grid{{mark("pool", "POOL"), "STATE", "READY", "QUEUED", "RUNS", mark("rate", "REQ/S"), "FAIL/S", "P50 MS", mark("latency", "P99 MS"), mark("memory", "MEMORY")}}
	for _, p := range pools {
		failed := number(p.rates.Failed)
		if p.rates.Failed > 0 {
			failed = bad.Render(failed)
		}
		ready := fmt.Sprintf("%d/%d", p.ready, len(p.Workers))
		if p.ready < len(p.Workers) {
			ready = warn.Render(ready)
		}
		t = append(t, []string{printable(p.Name), stateStyle(p.State).Render(p.State), ready, fmt.Sprint(p.Queued), fmt.Sprint(p.InFlight), number(p.rates.PerSecond), failed, number(p.rates.P50MS), number(p.rates.P99MS), size(p.memory)})
	}
	lines := t.lines(m.width)
	if len(pools) == 0 {
		lines = append(lines, faint.Render("no pool's name has "+printable(m.filter)+" in it"))
	}
	return lines
}

func workerLines(pools []topPool) []string {
	t := grid{{"WORKER", "STATE", "PID", "RUNS", "REQUESTS", "RESTARTS", "UPTIME", "CPU", "MEMORY", "GPU MEM", "DEVICES", "LAST EXIT"}}
	for _, p := range pools {
		for _, w := range p.Workers {
			vram := "-"
			if w.VRAMBytes > 0 {
				vram = size(w.VRAMBytes)
			}
			t = append(t, []string{
				printable(fmt.Sprintf("%s/%d", p.Name, w.Slot)), stateStyle(w.State).Render(w.State), orDash(w.PID), fmt.Sprint(w.InFlight), fmt.Sprint(w.Requests), fmt.Sprint(w.Restarts),
				duration(w.UptimeS), fmt.Sprintf("%.0f%%", w.CPUPercent), size(w.RSSBytes), vram, dash(w.Devices), printable(lastExit(w.LastExit)),
			})
		}
	}
	return t.lines(1000)
}

func gpuLines(gpus []supervisor.GPU) []string {
	t := grid{{"GPU", "NAME", "BUSY", "", "MEMORY", "", "°C"}}
	for _, g := range gpus {
		share := 0.0
		if g.MemoryTotal > 0 {
			share = float64(g.MemoryUsed) / float64(g.MemoryTotal)
		}
		t = append(t, []string{
			fmt.Sprint(g.Index), printable(g.Name), bar(float64(g.BusyPercent)/100, 10), fmt.Sprintf("%d%%", g.BusyPercent), bar(share, 10), size(g.MemoryUsed) + " of " + size(g.MemoryTotal), fmt.Sprint(g.TemperatureC),
		})
	}
	return t.lines(1000)
}

// mostErrors is how many failures are shown.
const mostErrors = 8

func (m topModel) errorLines() []string {
	t := grid{{"FAILED", "POOL", "ACTION", "OUTCOME", "TRACE", "MESSAGE"}}
	for _, e := range m.now.stats.Errors {
		if strings.Contains(strings.ToLower(e.Pool), strings.ToLower(m.filter)) && len(t) <= mostErrors {
			t = append(t, []string{clock(e)[:8], printable(e.Pool), printable(e.Action), bad.Render(printable(e.Outcome)), e.TraceID[:min(8, len(e.TraceID))], printable(e.Message)})
		}
	}
	return t.lines(1000)
}

// foot is the last line: what can be done, or the filter that is being typed.
func (m topModel) foot(more int) string {
	if m.typing {
		return title.Render(" filter: "+printable(m.filter)+"█ ") + faint.Render(" Enter keeps it, Esc drops it")
	}
	said := " q quit "
	if more > 0 {
		said += fmt.Sprintf(" ↓ %d more ", more)
	}
	if m.filter != "" {
		said += " filter: " + printable(m.filter) + " "
	}
	return title.Render(said + " p/s/c/m sort  / filter  w workers  e errors  space pause ")
}

// grid is a table; its first row is the head.
type grid [][]string

// gap is how many columns are between a table's.
const gap = 2

// lines aligns the columns, with a gap between them. Where that is too wide, the widest names of the first column are cut.
func (g grid) lines(width int) []string {
	widths := make([]int, len(g[0]))
	total := 0
	for _, row := range g {
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	for _, w := range widths {
		total += w + gap
	}
	if over := total - gap - width; over > 0 {
		widths[0] = max(8, widths[0]-over)
	}
	lines := make([]string, len(g))
	for r, row := range g {
		var b strings.Builder
		for i, cell := range row {
			cell = ansi.Truncate(cell, widths[i], "…")
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-ansi.StringWidth(cell)+gap))
			}
		}
		lines[r] = b.String()
		if r == 0 {
			lines[r] = strong.Render(lines[r])
		}
	}
	return lines
}
