package address

import (
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name                           string
		flag, env, file, runtime, user string
		want                           string
	}{
		{name: "nothing set", want: "/run/ringmaster/ringmaster.sock"},
		{name: "a user's session", user: "/run/user/7", want: "/run/user/7/ringmaster/ringmaster.sock"},
		{name: "systemd", runtime: "/run/rm", user: "/run/user/7", want: "/run/rm/ringmaster.sock"},
		{name: "systemd, two directories", runtime: "/run/rm:/run/other", want: "/run/rm/ringmaster.sock"},
		{name: "file", file: "unix:///f", runtime: "/run/rm", want: "/f"},
		{name: "environment", env: "/e", file: "/f", runtime: "/run/rm", want: "/e"},
		{name: "flag", flag: "x/y.sock", env: "/e", file: "/f", want: "x/y.sock"},
	} {
		t.Setenv("RINGMASTER_SOCKET", tt.env)
		t.Setenv("RUNTIME_DIRECTORY", tt.runtime)
		t.Setenv("XDG_RUNTIME_DIR", tt.user)
		if got, err := Resolve(tt.flag, tt.file); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	t.Setenv("RINGMASTER_SOCKET", "http://x")
	if _, err := Resolve("", ""); err == nil || !strings.Contains(err.Error(), "$RINGMASTER_SOCKET") {
		t.Errorf("a bad variable: %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"", "unix://", "unix://x", "tcp://1.2.3.4:5", "@abstract", "a\x00b", "/" + strings.Repeat("x", MaxPath)} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %q", bad, got)
		}
	}
	for in, want := range map[string]string{"unix:///a/b": "/a/b", "/a": "/a", "a": "a", "/" + strings.Repeat("x", MaxPath-1): "/" + strings.Repeat("x", MaxPath-1)} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v", in, got, err)
		}
	}
}
