package main

import (
	"errors"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/ringmasterd/ringmaster/ipc"
)

// topModel is all that `top` knows: Update makes another one of it for each message, View a frame. Neither asks anybody anything.
type topModel struct {
	look  func() topLook // asks the server
	every time.Duration

	now     topLook
	failing error // the last look failed, and why; now is an older one
	fatal   error // nothing can be looked at any more

	order         string // a key of topOrders
	filter        string
	typing        bool   // keys go into the filter
	before        string // the filter as it was before typing
	paused        bool
	workers       bool // are shown
	errors        bool // likewise
	width, height int  // of the terminal; a height of 0: as much as there is to show
	scroll        int  // lines of the body that are above the screen
}

// topTick says that it is time to look.
type topTick struct{}

// Init implements [tea.Model].
func (m topModel) Init() tea.Cmd { return m.glance }

// glance looks at the server.
func (m topModel) glance() tea.Msg { return m.look() }

// Update implements [tea.Model].
func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		return m.scrolled(0), nil
	case topLook:
		return m.looked(msg)
	case topTick:
		if m.paused {
			return m, m.tick()
		}
		return m, m.glance
	case tea.KeyPressMsg:
		if m.typing {
			return m.typed(msg), nil
		}
		return m.pressed(msg)
	}
	return m, nil
}

func (m topModel) tick() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return topTick{} })
}

// looked takes over what a look has found. While the server does not answer, the last frame stays, and says so.
func (m topModel) looked(l topLook) (tea.Model, tea.Cmd) {
	if l.err == nil {
		m.now, m.failing = l, nil
		return m.scrolled(0), m.tick()
	}
	var e *ipc.Error
	m.failing = l.err
	if errors.As(l.err, &e) && e.Reason == "connection_lost" || m.now.at.IsZero() {
		m.fatal = l.err
		return m, tea.Quit
	}
	return m, m.tick()
}

// pressed does what a key says.
func (m topModel) pressed(key tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch key.String() {
	case "q", "ctrl+c", "esc":
		return m, tea.Quit
	case "p":
		m.order = "pool"
	case "s":
		m.order = "rate"
	case "c":
		m.order = "latency"
	case "m":
		m.order = "memory"
	case "w":
		m.workers = !m.workers
	case "e":
		m.errors = !m.errors
	case "space":
		m.paused = !m.paused
	case "/":
		m.typing, m.before = true, m.filter
	case "down", "j":
		return m.scrolled(1), nil
	case "up", "k":
		return m.scrolled(-1), nil
	case "pgdown":
		return m.scrolled(m.height / 2), nil
	case "pgup":
		return m.scrolled(-m.height / 2), nil
	case "home", "g":
		return m.scrolled(-m.scroll), nil
	}
	return m.scrolled(0), nil
}

// typed changes the filter.
func (m topModel) typed(key tea.KeyPressMsg) topModel {
	switch key.String() {
	case "enter":
		m.typing = false
	case "esc", "ctrl+c":
		m.typing, m.filter = false, m.before
	case "backspace":
		if r := []rune(m.filter); len(r) > 0 {
			m.filter = string(r[:len(r)-1])
		}
	default:
		if len(m.filter) < 64 {
			m.filter += key.Text
		}
	}
	return m.scrolled(0)
}

// scrolled moves the body by a number of lines, as far as there are any.
func (m topModel) scrolled(by int) topModel {
	m.scroll = max(0, min(m.scroll+by, len(m.body())-m.room()))
	return m
}

// room is how many lines of the body there is room for.
func (m topModel) room() int {
	if m.height == 0 {
		return 1 << 20
	}
	return max(1, m.height-headLines-1)
}
