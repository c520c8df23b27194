package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long: `Print the version of this program, what it was built from, and the protocol version it
speaks. "ringmaster status" tells the server's.`,
		Example: `  ringmaster version
  ringmaster version --json`,
		Args: noArgs,
		RunE: a.command(func(context.Context, []string) error {
			b := version.Get()
			if a.json {
				return json.NewEncoder(a.out).Encode(struct {
					version.Build
					ProtocolMin int `json:"protocol_min"`
					ProtocolMax int `json:"protocol_max"`
				}{b, ipc.MinVersion, ipc.MaxVersion})
			}
			commit := b.Revision
			switch {
			case commit == "":
				commit = "unknown"
			case b.Modified:
				commit += ", modified"
			}
			_, err := fmt.Fprintf(a.out, "ringmaster %s (protocol %d)\ncommit:   %s\nbuilt by: %s for %s\n", b.Version, ipc.MaxVersion, commit, b.Go, b.Platform)
			return err
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}
