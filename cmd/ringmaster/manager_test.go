package main

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// manager is the service manager's end of the sd_notify protocol: it keeps every message that comes.
type manager struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	messages []message // guarded by mu
	next     int       // guarded by mu; the first that await has not looked at
}

// message is one notification, by variable.
type message map[string]string

// manage opens a notify socket and has servers that are started from now on find it.
func manage(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: m.path})
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			m.receive(string(buf[:n]))
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-received
	})
	t.Setenv("NOTIFY_SOCKET", m.path)
	return m
}

func (m *manager) receive(text string) {
	msg := message{}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			m.t.Errorf("a message with a line that is no assignment: %q", text)
		}
		msg[name] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, msg)
}

// await returns the next message that fits, and passes over those before it.
func (m *manager) await(what string, fits func(message) bool) (found message) {
	m.t.Helper()
	if !poll(func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for m.next < len(m.messages) && found == nil {
			if msg := m.messages[m.next]; fits(msg) {
				found = msg
			}
			m.next++
		}
		return found != nil
	}) {
		m.t.Fatalf("waited in vain for %s; these came:\n%s", what, m)
	}
	return found
}

// awaitVariable waits for a message with a variable of this value.
func (m *manager) awaitVariable(name, value string) message {
	m.t.Helper()
	return m.await(name+"="+value, func(msg message) bool { return msg[name] == value })
}

// said reports whether any message so far had this variable.
func (m *manager) said(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.messages, func(msg message) bool { _, ok := msg[name]; return ok })
}

// count says how many messages had this variable.
func (m *manager) count(name string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range m.messages {
		if _, ok := msg[name]; ok {
			n++
		}
	}
	return n
}

// flush waits until everything that was sent before has been received.
func (m *manager) flush() {
	m.t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: m.path})
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	mark := strconv.FormatInt(time.Now().UnixNano(), 10)
	if _, err := conn.Write([]byte("X_MARK=" + mark)); err != nil {
		m.t.Fatal(err)
	}
	m.awaitVariable("X_MARK", mark)
}

// beforeLast names the variables of the message before the last flush, nil if that is the mark of another flush.
func (m *manager) beforeLast() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.messages[len(m.messages)-2]))
	if slices.Equal(names, []string{"X_MARK"}) {
		return nil
	}
	return names
}

func (m *manager) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, msg := range m.messages {
		for _, name := range slices.Sorted(maps.Keys(msg)) {
			b.WriteString(name + "=" + msg[name] + "  ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// usec reads a message's variable as a time in microseconds.
func (m *manager) usec(msg message, name string) time.Duration {
	m.t.Helper()
	n, err := strconv.ParseInt(msg[name], 10, 64)
	if err != nil {
		m.t.Fatalf("%s=%s: %v", name, msg[name], err)
	}
	return time.Duration(n) * time.Microsecond
}

// slowPool is a pool whose worker loads until the file "go" is there.
func slowPool(t *testing.T, dir string) (yaml string, load func()) {
	t.Helper()
	yaml = "pools: {slow: {command: [sh, -c, 'until test -e go; do sleep 0.02; done; exec " + binary + " worker --builtin echo']}}\n"
	return yaml, func() {
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
