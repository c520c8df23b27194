package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/creack/pty"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// aLook is a server with three pools, of which one fails.
func aLook() topLook {
	l := topLook{at: time.Unix(1_800_000_000, 0)}
	l.status = supervisor.Status{Version: "1.2.3", PID: 77, UptimeS: 3700, Memory: supervisor.Memory{Used: 3 << 20, Limit: 4 << 20}, GPUs: []supervisor.GPU{{Name: "Some GPU", BusyPercent: 50, MemoryUsed: 1 << 30, MemoryTotal: 2 << 30, TemperatureC: 61}}}
	worker := func(slot int, state string, rss uint64) supervisor.WorkerStatus {
		return supervisor.WorkerStatus{Slot: slot, PID: 1000 + slot, State: state, RSSBytes: rss, UptimeS: 5}
	}
	l.status.Pools = []supervisor.PoolStatus{
		{Name: "bad", State: "failed", Workers: []supervisor.WorkerStatus{{State: "failed", LastExit: &supervisor.Exit{Cause: "exited", Detail: "exit status 3\x1b[31m"}}}},
		{Name: "echo", State: "ready", Queued: 3, InFlight: 2, Workers: []supervisor.WorkerStatus{worker(0, "ready", 10<<20), worker(1, "loading", 20<<20)}},
		{Name: "slow", State: "ready", Workers: []supervisor.WorkerStatus{worker(0, "ready", 900<<20)}},
	}
	l.stats = trace.Stats{
		Pools:  []trace.PoolRates{{Name: "echo", TenSeconds: trace.Rates{PerSecond: 1234, P50MS: 0.2, P99MS: 1.5}}, {Name: "slow", TenSeconds: trace.Rates{PerSecond: 2, Failed: 0.5, P50MS: 400, P99MS: 900}}},
		Errors: []trace.Summary{{TraceID: "0af7651916cd43dd8448eb211c80319c", Begin: "2026-01-02T03:04:05.000006Z", Pool: "slow", Action: "run", Outcome: "ABORTED/worker_lost", Message: "gone\nand \x1b[2Jgone"}},
	}
	return l
}

func aTop() topModel {
	return topModel{now: aLook(), every: time.Second, order: "pool", width: 120, workers: true, errors: true, look: aLook}
}

func press(t *testing.T, m topModel, keys ...string) topModel {
	t.Helper()
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		if code, special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "up": tea.KeyUp, "pgdown": tea.KeyPgDown, "backspace": tea.KeyBackspace, " ": tea.KeySpace}[k]; special {
			msg = tea.KeyPressMsg{Code: code}
		}
		next, _ := m.Update(msg)
		m = next.(topModel)
	}
	return m
}

func TestTopFrame(t *testing.T) {
	frame := aTop().whole(false)
	contains(t, "the frame", frame,
		"ringmaster 1.2.3  pid 77  up 1h01m", "1236 req/s  0.50 failed/s  3 queued  2 in flight  clients' memory ████████░░ 3.0 MiB of 4.0 MiB",
		"echo   ready   1/2    3       2     1234   0       0.20    1.50    30.0 MiB", "Some GPU  █████░░░░░  50%  █████░░░░░  1.0 GiB of 2.0 GiB  61",
		"echo/1  loading  1001", "slow  run     ABORTED/worker_lost  0af76519  gone\ufffdand \ufffd[2Jgone", "exit status 3\ufffd[31m")
	if strings.Contains(frame, "\x1b") {
		t.Error("there are colours, or worse, in a frame without")
	}
	if !strings.Contains(aTop().whole(true), "\x1b[") {
		t.Error("there are no colours in a frame with")
	}
}

// On any terminal a frame has as many lines as that, none wider than it.
func TestTopFitsTheTerminal(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 5}, {1, 1}} {
		next, _ := aTop().Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		m := next.(topModel)
		lines := strings.Split(m.screen(), "\n")
		if want := max(size[1], headLines+2); len(lines) != want {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, line := range lines {
			if ansi.StringWidth(line) > size[0] {
				t.Errorf("%v: %q is wider", size, line)
			}
		}
	}
}

func TestTopKeys(t *testing.T) {
	first := func(m topModel) string { return m.topPools()[0].Name }
	m := aTop()
	for keys, want := range map[string]string{"p": "bad", "s": "echo", "c": "slow", "m": "slow"} {
		if got := first(press(t, m, keys)); got != want {
			t.Errorf("after %s, %s is first; want %s", keys, got, want)
		}
	}
	if m := press(t, m, "/", "S", "L", "x", "backspace", "enter"); m.filter != "SL" || len(m.topPools()) != 1 || first(m) != "slow" || m.typing {
		t.Errorf("filtered by %q: %v", m.filter, m.topPools())
	}
	if m := press(t, m, "/", "s", "esc"); m.filter != "" || m.typing {
		t.Errorf("a filter that was dropped: %q", m.filter)
	}
	if m := press(t, m, "/", "q"); m.filter != "q" {
		t.Error("q quits while the filter is typed")
	} else if !strings.Contains(ansi.Strip(m.screen()), "no pool's name has q in it") {
		t.Errorf("nothing is found: %s", m.screen())
	}
	if m := press(t, m, "w", "e"); strings.Contains(m.whole(false), "WORKER") || strings.Contains(m.whole(false), "FAILED") {
		t.Error("workers and errors are shown still")
	}
	if m := press(t, m, " "); !m.paused || !strings.Contains(ansi.Strip(m.screen()), "paused") {
		t.Error("it goes on")
	}
	if _, cmd := m.Update(tea.KeyPressMsg{Code: 'q', Text: "q"}); cmd == nil {
		t.Error("q does not quit")
	}
	small, _ := m.Update(tea.WindowSizeMsg{Width: 80, Height: 10})
	m = small.(topModel)
	if got := press(t, m, "down", "down", "up").scroll; got != 1 {
		t.Errorf("scrolled by %d", got)
	}
	if got, most := press(t, m, "pgdown", "pgdown", "pgdown", "pgdown", "pgdown").scroll, len(m.body())-m.room(); got != most {
		t.Errorf("scrolled by %d, of at most %d", got, most)
	}
}

// While the server does not answer the last frame stays; when it is gone, top ends and says so.
func TestTopWithoutAnAnswer(t *testing.T) {
	next, cmd := aTop().Update(topLook{err: ipc.Errorf(ipc.DeadlineExceeded, "deadline", "late")})
	m := next.(topModel)
	if cmd == nil || m.fatal != nil || !strings.Contains(ansi.Strip(m.screen()), "no answer since") || !strings.Contains(m.screen(), "echo") {
		t.Errorf("%+v", m.failing)
	}
	next, _ = m.Update(aLook())
	if m = next.(topModel); m.failing != nil {
		t.Error("it answers again, and is not believed")
	}
	next, _ = m.Update(topLook{err: ipc.Errorf(ipc.Unavailable, "connection_lost", "gone")})
	if m = next.(topModel); m.fatal == nil {
		t.Error("it goes on without a server")
	}
	if m := (topModel{}); !strings.Contains(m.screen(), "asking") {
		t.Error("before the first look")
	}
	next, _ = topModel{}.Update(topLook{err: errors.New("no")})
	if m = next.(topModel); m.fatal == nil {
		t.Error("it goes on though nothing was ever found")
	}
}

// screen is what a program has written to its terminal.
type screen struct {
	mu sync.Mutex
	b  []byte
}

func (s *screen) read(f *os.File, done chan<- struct{}) {
	defer close(done)
	piece := make([]byte, 4096)
	for {
		n, err := f.Read(piece)
		s.mu.Lock()
		s.b = append(s.b, piece[:n]...)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// has reports whether a text was written since clear, however it was painted.
func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(ansi.Strip(string(s.b)), text)
}

func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = nil
}

func TestTopInATerminal(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo, workers: 2}, other: {builtin: echo}}\n")
	for _, how := range []string{"q", "SIGTERM"} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(binary, "top", "--interval", "100ms", "--socket", s.socket)
			cmd.Env = append(os.Environ(), "TERM=xterm-256color")
			terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
			if err != nil {
				t.Fatal(err)
			}
			defer terminal.Close()
			shown, done := &screen{}, make(chan struct{})
			go shown.read(terminal, done)
			wait := sync.OnceValue(cmd.Wait)
			defer func() {
				_ = cmd.Process.Kill()
				_ = wait()
			}()
			eventually(t, "the first frame", func() bool { return shown.has("echo/1") && shown.has("other/0") && shown.has("q quit") })
			shown.clear()
			if err := pty.Setsize(terminal, &pty.Winsize{Rows: 8, Cols: 60}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a smaller frame, that says what is below", func() bool { return shown.has("more") })
			shown.clear()
			if err := pty.Setsize(terminal, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a larger one", func() bool { return shown.has("other/0") })
			if _, err := terminal.WriteString("/oth\r"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the filter", func() bool { return shown.has("filter: oth") })
			want := 0
			if how == "q" {
				_, err = terminal.WriteString("q")
			} else {
				err, want = cmd.Process.Signal(syscall.SIGTERM), 128+int(syscall.SIGTERM)
			}
			if err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, wait()); code != want {
				t.Errorf("it ended with %d", code)
			}
			<-done
			if !strings.Contains(string(shown.b), "\x1b[?1049l") || !strings.Contains(string(shown.b), "\x1b[?25h") {
				t.Error("the terminal is not as it was: the alternate screen is there, or the cursor is not")
			}
		})
	}
}

func TestTopOnce(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo}}\n")
	for range 3 {
		if r := s.run("call", "echo", "echo", "--data", "1"); r.code != 0 {
			t.Fatal(r)
		}
	}
	r := s.run("top") // stdout is no terminal
	if r.code != 0 || strings.Contains(r.out, "\x1b") {
		t.Errorf("%+v", r)
	}
	contains(t, "top", r.out, "POOL▼", "echo", "echo/0", "0 queued")
	if r := s.run("top", "--once", "--sort", "rate", "--filter", "nothing"); r.code != 0 || !strings.Contains(r.out, "no pool's name has nothing in it") {
		t.Errorf("%+v", r)
	}
	if r := s.run("top", "--once", "--width", "40"); r.code != 0 {
		t.Errorf("%+v", r)
	} else {
		for line := range strings.Lines(r.out) {
			if w := ansi.StringWidth(strings.TrimRight(line, "\n")); w > 40 {
				t.Errorf("%q has %d columns", line, w)
			}
		}
	}
	for _, args := range [][]string{{"--sort", "name"}, {"--interval", "1ms"}, {"--width", "5"}, {"x"}} {
		if r := s.run(append([]string{"top"}, args...)...); r.code != 2 {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// What is linked in for top must not make other commands ask the terminal for its colours, and wait for an answer.
func TestOtherCommandsAskTheTerminalNothing(t *testing.T) {
	cmd := exec.Command(binary, "version")
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer func() { _ = cmd.Wait() }()
	shown, done := &screen{}, make(chan struct{})
	shown.read(terminal, done)
	if !strings.HasPrefix(string(shown.b), "ringmaster ") || strings.Contains(string(shown.b), "\x1b") {
		t.Errorf("version prints %q", shown.b)
	}
}

// However large the numbers, what they are shown as is short.
func TestNumbersAreShort(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 0.123: "0.12", 9.99: "9.99", 12.34: "12.3", 99.99: "100.0", 123.4: "123", 123456: "123456"} {
		if got := number(f); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
	if got := ansi.Strip(bar(7, 4)) + ansi.Strip(bar(-1, 4)); got != "████░░░░" {
		t.Error(got)
	}
}
