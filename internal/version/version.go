// Package version says which build this is.
package version

import (
	"runtime"
	"runtime/debug"
)

// Version is the release; a release build sets it with -ldflags "-X github.com/ringmasterd/ringmaster/internal/version.Version=1.2.3".
var Version = "0.1.0-dev"

// Build describes the running binary.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // the commit; "" if the build did not record it
	Time     string `json:"time"`     // of the commit, RFC 3339
	Modified bool   `json:"modified"` // the working tree had changes
	Go       string `json:"go"`
	Platform string `json:"platform"` // e.g. linux/amd64
}

// Get returns the running binary's build.
func Get() Build {
	b := Build{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// SDK is what this build calls itself in a hello.
func SDK() string { return "ringmaster-go/" + Version }
