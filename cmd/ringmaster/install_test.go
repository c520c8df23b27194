package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// worstExposure is what `systemd-analyze security` may find at most, in tenths, of 100. Unconfined services have 96.
const worstExposure = 20

// installed is what `make install` made of the program under test.
type installed struct {
	t      *testing.T
	prefix string
	make   func(target string)
}

func install(t *testing.T) *installed {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	root := t.TempDir()
	i := &installed{t: t, prefix: filepath.Join(root, "usr")}
	i.make = func(target string) {
		t.Helper()
		i.run("make", "-C", filepath.Join("..", ".."), target, "PREFIX="+i.prefix, "SYSCONFDIR="+filepath.Join(root, "etc"), "BIN="+binary)
	}
	i.make("install")
	return i
}

// run runs a program and returns what it printed.
func (i *installed) run(name string, args ...string) string {
	i.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		i.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (i *installed) unit(name string) string {
	return filepath.Join(i.prefix, "lib", "systemd", "system", name)
}

// files lists what there is below the prefix's parent, with modes.
func (i *installed) files() (list []string) {
	i.t.Helper()
	root := filepath.Dir(i.prefix)
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list = append(list, info.Mode().String()+" "+strings.TrimPrefix(path, root+"/"))
		}
		return err
	}); err != nil {
		i.t.Fatal(err)
	}
	return list
}

func TestInstall(t *testing.T) {
	i := install(t)
	want := []string{
		"-rw-r--r-- etc/ringmaster/ringmaster.yaml.example",
		"-rwxr-xr-x usr/bin/ringmaster",
		"-rw-r--r-- usr/lib/systemd/system/ringmaster.service",
		"-rw-r--r-- usr/lib/systemd/system/ringmaster.socket",
		"-rw-r--r-- usr/lib/sysusers.d/ringmaster.conf",
		"-rw-r--r-- usr/lib/tmpfiles.d/ringmaster.conf",
		"-rw-r--r-- usr/share/bash-completion/completions/ringmaster",
		"-rw-r--r-- usr/share/fish/vendor_completions.d/ringmaster.fish",
		"-rw-r--r-- usr/share/zsh/site-functions/_ringmaster",
	}
	if got := i.files(); !slices.Equal(got, want) {
		t.Errorf("installed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	example := filepath.Join(filepath.Dir(i.prefix), "etc", "ringmaster", "ringmaster.yaml.example")
	if _, err := config.Load(example); err != nil {
		t.Error(err)
	}
	mine := filepath.Join(filepath.Dir(example), "ringmaster.yaml")
	if err := os.WriteFile(mine, []byte(echoPool), 0o600); err != nil {
		t.Fatal(err)
	}
	i.make("install")
	i.make("uninstall")
	if got, want := i.files(), []string{"-rw------- etc/ringmaster/ringmaster.yaml"}; !slices.Equal(got, want) {
		t.Errorf("after uninstall there is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// analyze skips a test where systemd's own judge of units is not installed.
func analyze(t *testing.T) (version int) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed (Debian: apt-get install systemd), so the units cannot be verified")
	}
	out, err := exec.Command("systemd-analyze", "--version").Output()
	if m := regexp.MustCompile(`^systemd (\d+)`).FindSubmatch(out); err == nil && m != nil {
		version, _ = strconv.Atoi(string(m[1]))
	}
	if version < 250 {
		t.Skipf("systemd-analyze is of version %d; looking at units offline needs 250", version)
	}
	return version
}

// systemd finds nothing wrong with the units, apart from an old one that falls back to Type=notify.
func TestUnitsAreValid(t *testing.T) {
	version := analyze(t)
	i := install(t)
	for line := range strings.Lines(i.run("systemd-analyze", "verify", "--man=no", i.unit("ringmaster.service"), i.unit("ringmaster.socket"))) {
		if !strings.Contains(line, i.prefix) && !strings.Contains(line, "ringmaster") {
			continue // about this machine's own units
		}
		if version < 253 && strings.HasSuffix(line, ": Failed to parse service type, ignoring: notify-reload\n") {
			continue
		}
		t.Errorf("systemd-analyze verify: %s", line)
	}
}

func TestServiceIsConfined(t *testing.T) {
	analyze(t)
	i := install(t)
	i.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+strconv.Itoa(worstExposure), i.unit("ringmaster.service"))
}

// What the units promise must be what the server does.
func TestUnitsAgreeWithServer(t *testing.T) {
	i := install(t)
	text, err := os.ReadFile(i.unit("ringmaster.service"))
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(string(text), -1)
		if m == nil {
			t.Fatalf("there is no %s= in\n%s", name, text)
		}
		return m[len(m)-1][1]
	}
	stop, err := time.ParseDuration(value("TimeoutStopSec"))
	if longest := stopsWithin(supervisor.DefaultDrainTimeout); err != nil || stop <= longest {
		t.Errorf("TimeoutStopSec=%v, %v; a stop may take %v", stop, err, longest)
	}
	for name, want := range map[string]string{
		"Type": "notify-reload", "KillMode": "mixed", "OOMPolicy": "continue", "NotifyAccess": "main", "RuntimeDirectoryPreserve": "yes",
		"ExecStart": i.prefix + "/bin/ringmaster serve --config " + filepath.Dir(i.prefix) + "/etc/ringmaster/ringmaster.yaml",
	} {
		if got := value(name); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if strings.Contains(string(text), "@bindir@") || strings.Contains(string(text), "@sysconfdir@") {
		t.Errorf("a placeholder is left:\n%s", text)
	}
}
