package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/internal/address"
	"github.com/ringmasterd/ringmaster/internal/config"
)

func (a *app) authCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Who may do what: tokens, decisions, who I am",
		Long: `Who may do what is said under "auth" in ringmaster.yaml; docs/security.md has recipes.
Without it root, the server's own user and the members of the socket's group may do
everything, and others nothing.`,
		Example: `  ringmaster auth whoami
  ringmaster auth can alice smollm2 chat
  ringmaster auth token robot --role app`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.authTokenCommand(), a.authCanCommand(), a.authWhoamiCommand())
	return cmd
}

func (a *app) authWhoamiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Ask the server who it takes you for, and what you may do",
		Long: `Ask the running server who it takes you for, and what you may do: your user, your control
group where that matters, your token if you send one (--token-file, $RINGMASTER_TOKEN), and
your roles with their limits.`,
		Example: "  ringmaster auth whoami\n  sudo -u alice ringmaster auth whoami --json",
		Args:    noArgs,
		RunE: a.command(func(ctx context.Context, _ []string) error {
			var who auth.Who
			if err := a.control(ctx, "whoami", nil, 0, &who); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(who)
			}
			fmt.Fprintln(a.out, who.Identity)
			if who.Everything {
				fmt.Fprintln(a.out, "may do everything")
			}
			printRoles(a.out, who.Roles)
			return nil
		}),
	}
	a.jsonFlag(cmd)
	return cmd
}

// printRoles prints roles, each with what it allows.
func printRoles(out io.Writer, roles []auth.Held) {
	for _, r := range roles {
		fmt.Fprintf(out, "role %s, from %s%s\n", r.Role, r.From, limitsText(r))
		for _, rule := range r.Allow {
			fmt.Fprintf(out, "  %s: %s", strings.Join(rule.Pools, ", "), strings.Join(rule.Actions, ", "))
			if rule.Weight > 1 {
				fmt.Fprintf(out, " (each counts as %d)", rule.Weight)
			}
			fmt.Fprintln(out)
		}
	}
}

func limitsText(r auth.Held) string {
	var b strings.Builder
	if r.Rate > 0 {
		fmt.Fprintf(&b, ", %g requests a second (%d at once)", r.Rate, r.Burst)
	}
	if r.InFlight > 0 {
		fmt.Fprintf(&b, ", %d in flight", r.InFlight)
	}
	if r.Cost > 0 {
		fmt.Fprintf(&b, ", %d bytes a second", r.Cost)
	}
	return b.String()
}

func (a *app) authCanCommand() *cobra.Command {
	var file, cgroup string
	cmd := &cobra.Command{
		Use:   "can UID|USER|token:NAME POOL ACTION",
		Short: "Say whether somebody may do something, and why",
		Long: `Say whether somebody may ask for an action of a pool, by the configuration file as it is now
(--config, else as "ringmaster serve" finds it), and why. No server need run. The exit
status is 0 for yes and 1 for no.

The user that the server runs as is the owner of the socket; if there is none, the user
who asks. A user's groups are those that this machine knows.`,
		Example: `  ringmaster auth can alice smollm2 chat
  ringmaster auth can token:robot ringmaster restart --json
  ringmaster auth can 1000 smollm2 chat --cgroup /system.slice/robot.service`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef(cmd, "can needs a user or token, a pool and an action, as in `ringmaster auth can alice smollm2 chat`; got %d arguments", len(args))
			}
			return nil
		},
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		a.ran = true
		verdict, err := a.decide(file, cgroup, args[0], args[1], args[2])
		var unknown *unknownError
		if errors.As(err, &unknown) {
			return usagef(cmd, "%v", err)
		}
		if err != nil {
			return err
		}
		if err := a.printVerdict(verdict); err != nil || verdict.Allowed {
			return err
		}
		return silently(exitFailed)
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "the configuration file")
	cmd.Flags().StringVar(&cgroup, "cgroup", "", "the control group in which the process is")
	a.jsonFlag(cmd)
	return cmd
}

// unknownError is about a user or a token that does not exist.
type unknownError struct{ message string }

func (e *unknownError) Error() string { return e.message }

// decide asks a configuration file.
func (a *app) decide(path, cgroup, subject, pool, action string) (auth.Verdict, error) {
	file, err := loadConfig(path)
	if err != nil {
		return auth.Verdict{}, err
	}
	link, err := auth.New(file.Auth, false)
	if err != nil {
		return auth.Verdict{}, file.Locate(err)
	}
	if name, ok := strings.CutPrefix(subject, "token:"); ok {
		v, ok := link.ExplainToken(name, pool, action)
		if !ok {
			return v, &unknownError{fmt.Sprintf("there is no token %q in %s", name, file.Path)}
		}
		return v, nil
	}
	peer, err := localPeer(subject)
	if err != nil {
		return auth.Verdict{}, err
	}
	peer.CGroup = cgroup
	owner, group := a.socketOwner(file)
	switch {
	case peer.UID == 0 || peer.UID == owner:
		peer.Standing = chain.Owner
	case peer.GID == group || slices.Contains(peer.Groups, group):
		peer.Standing = chain.Member
	default:
		peer.Standing = chain.Stranger
	}
	return link.ExplainPeer(peer, pool, action), nil
}

// localPeer is what a process of a user would be. A number need not be a user's.
func localPeer(subject string) (chain.Peer, error) {
	u, err := user.Lookup(subject)
	if uid, numeric := strconv.ParseUint(subject, 10, 32); numeric == nil && uid < math.MaxUint32 {
		if u, err = user.LookupId(subject); err != nil {
			return chain.Peer{UID: uint32(uid), GID: chain.NoID}, nil //nolint:nilerr // a number will do
		}
	}
	if err != nil {
		return chain.Peer{}, &unknownError{fmt.Sprintf("there is no user %q here; give a number, or token:NAME", subject)}
	}
	number := func(s string) uint32 {
		n, _ := strconv.ParseUint(s, 10, 32) // the system's own
		return uint32(n)
	}
	peer := chain.Peer{UID: number(u.Uid), GID: number(u.Gid)}
	groups, err := u.GroupIds()
	for _, g := range groups {
		peer.Groups = append(peer.Groups, number(g))
	}
	return peer, err
}

// socketOwner is who the server runs as, and the socket's group: by the socket, else by the file and who asks.
func (a *app) socketOwner(file *config.File) (uid, gid uint32) {
	uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
	if g, err := user.LookupGroup(file.SocketGroup); err == nil {
		n, _ := strconv.ParseUint(g.Gid, 10, 32) // the system's own
		gid = uint32(n)
	} else if n, err := strconv.ParseUint(file.SocketGroup, 10, 32); err == nil {
		gid = uint32(n)
	}
	path, err := address.Resolve(a.socket, file.Socket)
	if err != nil {
		return uid, gid
	}
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			return stat.Uid, stat.Gid
		}
	}
	return uid, gid
}

func (a *app) printVerdict(v auth.Verdict) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(v)
	}
	answer := "no"
	if v.Allowed {
		answer = "yes"
	}
	fmt.Fprintf(a.out, "%s: %s, %s.%s: %s\n", answer, v.Who, v.Pool, v.Action, v.Why)
	if v.By != nil {
		printRoles(a.out, []auth.Held{*v.By})
	}
	return nil
}
