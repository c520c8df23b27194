package supervisor

import (
	"slices"
	"testing"
)

func TestInherited(t *testing.T) {
	ours := []string{
		"PATH=/bin", "HOME=/me", "LC_ALL=C", "XDG_RUNTIME_DIR=/run/me", "https_proxy=http://p", "PYTHONPATH=x", "CUDA_VISIBLE_DEVICES=0", "HF_HOME=/m", "OMP_NUM_THREADS=4", "EMPTY=", "TORCHINDUCTOR_CACHE_DIR=/c",
		"AWS_SECRET_ACCESS_KEY=s", "GOOGLE_APPLICATION_CREDENTIALS=g", "DATABASE_URL=d", "PATHS=p", "MODEL_DIR=/models", "MODEL=m", "TF_VAR_password=p", "PWD=/", "odd",
		"NOTIFY_SOCKET=@n", "LISTEN_FDS=1", "WATCHDOG_USEC=1", "PLUGIN_MIN_PORT=1", cookieKey + "=c", workerIDKey + "=x.1", "RINGMASTER_SOCKET=/s", tokenKey + "=t",
	}
	usual := []string{
		"PATH=/bin", "HOME=/me", "LC_ALL=C", "XDG_RUNTIME_DIR=/run/me", "https_proxy=http://p", "PYTHONPATH=x", "CUDA_VISIBLE_DEVICES=0", "HF_HOME=/m", "OMP_NUM_THREADS=4", "TORCHINDUCTOR_CACHE_DIR=/c", "RINGMASTER_SOCKET=/s",
	}
	for _, c := range []struct{ pass, more []string }{
		{nil, nil},
		{[]string{"MODEL_*"}, []string{"MODEL_DIR=/models"}},
		{[]string{"MODEL*", "EMPTY", "NOT_SET"}, []string{"EMPTY=", "MODEL_DIR=/models", "MODEL=m"}},
		{[]string{"*"}, []string{"EMPTY=", "AWS_SECRET_ACCESS_KEY=s", "GOOGLE_APPLICATION_CREDENTIALS=g", "DATABASE_URL=d", "PATHS=p", "MODEL_DIR=/models", "MODEL=m", "TF_VAR_password=p", "PWD=/", "odd", tokenKey + "=t"}},
		{[]string{tokenKey}, []string{tokenKey + "=t"}},
		{[]string{"NOTIFY_SOCKET", "PLUGIN_*", cookieKey}, nil},
	} {
		got := inherited(ours, c.pass)
		want := append(slices.Clone(usual), c.more...)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("env_pass %q:\ngot  %q\nwant %q", c.pass, got, want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, p := range slices.Concat(passedByDefault, []string{"*", "A", "_a1*", "A_"}) {
		if !validPattern(p) {
			t.Errorf("%q is refused", p)
		}
	}
	for _, p := range []string{"", "1A", "A*B", "A-B", "**", "A=", "Ä", "A*=*"} {
		if validPattern(p) {
			t.Errorf("%q is accepted", p)
		}
	}
}
