package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/chain/session"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

const sessionTimeout = 10 * time.Second

func (a *app) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Look at what the server keeps of your sessions, and remove it",
		Long: `Look at what the server keeps of your sessions, and remove it.

Requests with the header session=ID are of one session: "ringmaster call POOL ACTION
-H session=ID". What the server keeps between them belongs to the user who sent them;
nobody else sees it here, or can continue it.`,
		Example: `  ringmaster session list
  ringmaster session show tea-time
  ringmaster session rm tea-time`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.sessionListCommand(), a.sessionShowCommand(), a.sessionRemoveCommand())
	return cmd
}

// sessionControl asks the server about sessions: about one, or with an empty id about all.
func (a *app) sessionControl(ctx context.Context, action, id string, answer any) error {
	var body any
	if id != "" {
		body = map[string]string{"session": id}
	}
	return a.withClient(ctx, func(c *client.Client) error {
		reply, err := c.Call(ctx, supervisor.ControlPool, action, body, client.WithTimeout(sessionTimeout))
		if err != nil {
			return err
		}
		return reply.Decode(answer)
	})
}

func oneSession(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return usagef(cmd, "%s takes the id of one session; got %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func (a *app) sessionListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your sessions",
		Long: `List your sessions: how often each has been written to, how large it is, and how long it
has not been used.`,
		Example: `  ringmaster session list
  ringmaster session list --json | jq -r '.[].id'`,
		Args: noArgs,
		RunE: a.command(func(ctx context.Context, _ []string) error {
			list := []session.Listed{}
			if err := a.sessionControl(ctx, "session_list", "", &list); err != nil {
				return err
			}
			if a.json {
				if list == nil {
					list = []session.Listed{}
				}
				return json.NewEncoder(a.out).Encode(list)
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tVERSION\tBYTES\tIDLE")
			for _, s := range list {
				idle := "-"
				if s.Idle >= 0 {
					idle = time.Duration(s.Idle * float64(time.Second)).Round(time.Second).String()
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", s.ID, s.Version, s.Bytes, idle)
			}
			return w.Flush()
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) sessionShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show what is kept of a session: its conversation, and how long its context is",
		Long: `Show what is kept of a session: its version, the size of its context, which is the
worker's own affair, and its conversation, a message on each line.`,
		Example: `  ringmaster session show tea-time
  ringmaster session show tea-time --json | jq -r '.messages[].content'`,
		Args: oneSession,
		RunE: a.command(func(ctx context.Context, args []string) error {
			var shown session.Shown
			if err := a.sessionControl(ctx, "session_show", args[0], &shown); err != nil {
				return err
			}
			messages := make([]json.RawMessage, len(shown.Messages))
			for i, m := range shown.Messages {
				var err error
				if messages[i], err = jsonbody.Encode(ipc.Body(m)); err != nil {
					return err
				}
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(struct {
					session.Shown
					Messages []json.RawMessage `json:"messages"`
				}{shown, messages})
			}
			fmt.Fprintf(a.out, "session %s, version %d, %d bytes of context, %d messages\n", shown.ID, shown.Version, shown.Context, len(messages))
			for _, m := range messages {
				fmt.Fprintf(a.out, "%s\n", m)
			}
			return nil
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) sessionRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm ID",
		Short: "Remove what is kept of a session",
		Long: `Remove what is kept of a session: its context and its conversation. Its next request begins
a new one. A request that is under way is answered, and keeps nothing.`,
		Example: `  ringmaster session rm tea-time`,
		Args:    oneSession,
		RunE: a.command(func(ctx context.Context, args []string) error {
			var answer session.Removed
			if err := a.sessionControl(ctx, "session_rm", args[0], &answer); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(answer)
			}
			if !answer.Removed {
				fmt.Fprintf(a.out, "there was no session %s\n", args[0])
				return nil
			}
			fmt.Fprintf(a.out, "removed session %s\n", args[0])
			return nil
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}
