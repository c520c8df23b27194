package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Command lines that never reach a server: exit status and words.
func TestWithoutServer(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"bad.yaml":     "pools:\n  echo:\n    builtin: echo\n    wokrers: 2\n    timeout: 60\n",
		"syntax.yaml":  "pools:\n  a: [\n",
		"builtin.yaml": "pools:\n  a: {builtin: eccho}\n",
		"program.yaml": "pools:\n  a: {command: [./no-such-program]}\n",
		"good.yaml":    "socket: s.sock\npools:\n  b: {command: [sh, -c, x], workers: 3}\n  a: {builtin: echo}\n",
		"x.txt":        "hello",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nobody := "--socket=" + filepath.Join(dir, "none.sock")
	for _, tt := range []struct {
		args string
		code int
		out  string // contained in stdout
		err  string // contained in stderr
	}{
		{"", 0, "Available Commands", ""},
		{"--help", 0, "Exit status: 0 success", ""},
		{"--version", 0, "ringmaster 0", ""},
		{"version", 0, "(protocol 1)", ""},
		{"version --json", 0, `"protocol_max":1`, ""},
		{"version x", 2, "", `ringmaster: version takes no arguments; got "x"`},
		{"bogus", 2, "", "ringmaster: unknown command \"bogus\"\nRun `ringmaster --help` for usage.\n"},
		{"stauts", 2, "", `unknown command "stauts"; did you mean status?`},
		{"status --bogus", 2, "", "ringmaster: unknown flag: --bogus\nRun `ringmaster status --help` for usage.\n"},
		{"call", 2, "", "call needs a pool and an action, as in `ringmaster call echo echo`; got 0 arguments"},
		{"call echo", 2, "", "got 1 arguments"},
		{"call a b c", 2, "", "got 3 arguments"},
		{"call a b --data hello", 2, "", `--data: not JSON: invalid character 'h' looking for beginning of value; text needs quotes of its own, as in --data '"hello"'`},
		{"call a b --data @none.json", 2, "", "--data: open none.json: no such file or directory"},
		{"call a b --tensor x", 2, "", "--tensor x: use name=@file, as in image=@page.png"},
		{"call a b --tensor x=y", 2, "", "--tensor x=y: use name=@file"},
		{"call a b --tensor x=@x.txt", 2, "", "--tensor x: x.txt: neither PNG, JPEG nor .npy"},
		{"call a b --header x", 2, "", "--header x: use key=value"},
		{"call a b --timeout -1s", 2, "", "--timeout -1s: use a positive duration"},
		{"call a b --timeout x", 2, "", `invalid argument "x" for "--timeout"`},
		{"call a b --json --data {", 2, "", `{"error":{"code":"INVALID_ARGUMENT","reason":"usage","message":"--data: not JSON: unexpected EOF`},
		{"call a b " + nobody, 3, "", "ringmaster: UNAVAILABLE/no_server: there is no socket at " + dir + "/none.sock; is `ringmaster serve` running?\n"},
		{"call a b --json " + nobody, 3, "", `{"error":{"code":"UNAVAILABLE","reason":"no_server","message":"there is no socket`},
		{"status " + nobody, 3, "", "UNAVAILABLE/no_server"},
		{"session", 0, "Available Commands", ""},
		{"session lsit", 2, "", `unknown command "lsit"; did you mean list?`},
		{"session list x", 2, "", `list takes no arguments; got "x"`},
		{"session show", 2, "", "show takes the id of one session; got 0 arguments"},
		{"session rm a b", 2, "", "rm takes the id of one session; got 2 arguments"},
		{"session list " + nobody, 3, "", "UNAVAILABLE/no_server"},
		{"health " + nobody, 3, "", "UNAVAILABLE/no_server"},
		{"health a b", 2, "", "health takes the name of one pool, or none for all; got 2 arguments"},
		{"restart", 2, "", "restart needs the name of one pool; got 0 arguments"},
		{"bench " + nobody, 3, "", "UNAVAILABLE/no_server"},
		{"bench a b c", 2, "", "bench takes a pool and an action; got 3 arguments"},
		{"bench --size 64k", 2, "", `--size: "64k": use a size such as 64, 64KiB or 6MiB`},
		{"bench --size 8", 2, "", "--size is 8B; use 16B to 1GiB"},
		{"bench --outstanding 0", 2, "", "--outstanding has 0; use 1 to 100000"},
		{"bench --rate 2000000", 2, "", "--rate is 2e+06; use 0 (a closed loop) to 1000000"},
		{"bench --connections 0", 2, "", "--connections is 0; use 1 to 1000"},
		{"bench --duration 0s", 2, "", "--duration is 0s; use a positive one, such as 1s"},
		{"bench --warmup -1s", 2, "", "--warmup is -1s; use 0s or more"},
		{"bench --seed 7", 2, "", "--seed is for --chaos"},
		{"bench --chaos --rate 7", 2, "", "--rate is not for --chaos, which has a load of its own"},
		{"bench echo --chaos", 2, "", `--chaos has a server of its own, and pools; got ["echo"]`},
		{"bench --size 64 --data 1", 2, "", "--size is for requests of bytes; --data and --tensor say themselves what is sent"},
		{"bench --data {", 2, "", "--data: not JSON"},
		{"bench --chaos --seconds 0", 2, "", "--seconds is 0; use 1 or more"},
		{"bench --chaos --clients 0", 2, "", "--clients is 0; use 1 to 200"},
		{"bench client", 1, "", "read what to do from stdin"},
		{"status --socket tcp://x", 1, "", "INVALID_ARGUMENT/invalid_argument: \"x\" is no address with a port; use one such as 127.0.0.1:8080"},
		{"serve", 2, "", "there is no configuration: neither ringmaster.yaml nor /etc/ringmaster/ringmaster.yaml exists; write one, or name it with --config"},
		{"serve --config none.yaml", 2, "", "configuration: open none.yaml: no such file or directory"},
		{"serve --config bad.yaml", 2, "", "ringmaster: bad.yaml:4:5: pools.echo.wokrers: unknown key: did you mean workers?\nringmaster: bad.yaml:5:14: pools.echo.timeout: 60: use a number with a unit (ms, s, m, h), such as 60s\n"},
		{"serve --config syntax.yaml", 2, "", "ringmaster: syntax.yaml:2:1: this is not YAML"},
		{"serve --config builtin.yaml", 2, "", "ringmaster: builtin.yaml:2:16: pools.a.builtin: eccho: there is no such builtin; use one of "},
		{"serve --check --config program.yaml", 2, "", "ringmaster: program.yaml:2:16: pools.a.command: ./no-such-program: there is no such program here"},
		{"serve --check --config good.yaml", 0, "good.yaml is valid. It would serve s.sock with\n  b: 3 workers, sh -c x\n  a: 1 worker, builtin echo\n", ""},
		{"serve --config good.yaml --log-level loud", 2, "", `log level "loud": use debug, info, warn or error`},
		{"serve --config good.yaml --log-format xml", 2, "", `log format "xml": use text or json`},
		{"serve --config good.yaml --socket http://x", 2, "", "only Unix sockets are served"},
		{"serve x", 2, "", "serve takes no arguments"},
		{"worker", 2, "", `required flag(s) "builtin" not set`},
		{"worker --builtin nonsense", 1, "", `there is no builtin "nonsense"`},
		{"worker --builtin echo", 1, "", "ringmaster: "}, // started by hand
		{"completion bash", 0, "bash completion", ""},
		{"__complete " + nobody + " call e", 0, ":4\n", ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			r := ringmaster(t, dir, "", strings.Fields(tt.args)...)
			if r.code != tt.code {
				t.Errorf("exit status %d, want %d", r.code, tt.code)
			}
			contains(t, "stdout", r.out, tt.out)
			contains(t, "stderr", r.errOut, tt.err)
			if tt.code != 0 && r.out != "" {
				t.Errorf("an error, but stdout has %q", r.out)
			}
		})
	}
}

// With --json an error is one line of JSON with a stable shape.
func TestErrorJSON(t *testing.T) {
	r := ringmaster(t, t.TempDir(), "", "status", "--json", "--socket", "none.sock")
	var got struct {
		Error struct{ Code, Reason, Message string }
	}
	if err := json.Unmarshal([]byte(r.errOut), &got); err != nil || got.Error.Code != "UNAVAILABLE" || got.Error.Reason != "no_server" || strings.Count(r.errOut, "\n") != 1 {
		t.Errorf("%q: %+v, %v", r.errOut, got, err)
	}
}

func TestEnvironmentGoesBeforeFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte("socket: file.sock\nlog: {level: warn}\npools: {a: {builtin: echo}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RINGMASTER_CONFIG", "x.yaml")
	contains(t, "with the file's socket", ringmaster(t, dir, "", "serve", "--check").out, "serve file.sock with")
	t.Setenv("RINGMASTER_SOCKET", "env.sock")
	contains(t, "with the environment's", ringmaster(t, dir, "", "serve", "--check").out, "serve env.sock with")
	contains(t, "with the flag's", ringmaster(t, dir, "", "serve", "--check", "--socket", "flag.sock").out, "serve flag.sock with")
	t.Setenv("RINGMASTER_LOG_LEVEL", "loud")
	if r := ringmaster(t, dir, "", "serve", "--check"); r.code != exitUsage {
		t.Errorf("a bad log level in the environment: %+v", r)
	}
}

// Every command explains itself.
func TestHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			return // cobra's
		}
		if c.Long == "" || c.Short == "" || c.Example == "" && !c.Hidden {
			t.Errorf("%s lacks help: short %q, long %q, example %q", c.CommandPath(), c.Short, c.Long, c.Example)
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len(line) > 100 && !c.Hidden {
				t.Errorf("%s: a line of %d characters in its help: %q", c.CommandPath(), len(line), line)
			}
		}
	}
	walk((&app{}).rootCommand())
}
