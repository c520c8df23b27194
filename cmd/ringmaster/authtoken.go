package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/internal/config"
)

// newToken is what `auth token --json` prints.
type newToken struct {
	Name    string   `json:"name"`
	Token   string   `json:"token"`
	Hash    string   `json:"hash"`
	Roles   []string `json:"roles"`
	Expires string   `json:"expires,omitempty"`
	YAML    string   `json:"yaml"` // the line for the file
}

func (a *app) authTokenCommand() *cobra.Command {
	var roles []string
	var expires string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token, and the line for ringmaster.yaml",
		Long: `Make a token and print it, this once, with the line that goes under "tokens" of "auth" in
ringmaster.yaml, or into its "tokens_file". The line has only the token's hash: nobody can
get the token back from it. "ringmaster reload" makes a running server take it.

Programs send it as "Authorization: Bearer TOKEN" by HTTP, or with the same value in the
request header "authorization" in frames.`,
		Example: `  ringmaster auth token robot --role app
  ringmaster auth token ci --role app --role monitor --expires 2027-01-01 --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef(cmd, "token needs a name for the token; got %d arguments", len(args))
			}
			return nil
		},
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		switch at, err := config.ParseDate(expires); {
		case !auth.ValidTokenName(args[0]):
			return usagef(cmd, "%q: a token's name has at most 64 letters, digits and _ @ -, and begins with a letter or digit", args[0])
		case expires != "" && err != nil:
			return usagef(cmd, "--expires %s: use a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z", expires)
		case expires != "" && !at.After(time.Now()):
			return usagef(cmd, "--expires %s: that is past", expires)
		}
		a.ran = true
		return a.printToken(makeToken(args[0], roles, expires))
	}
	cmd.Flags().StringArrayVarP(&roles, "role", "r", []string{"app"}, "a role that it has (repeatable)")
	cmd.Flags().StringVar(&expires, "expires", "", "the day, or the moment, from which on it counts no more (default: never)")
	a.jsonFlag(cmd)
	return cmd
}

func makeToken(name string, roles []string, expires string) newToken {
	t := newToken{Name: name, Roles: roles, Expires: expires}
	t.Token, t.Hash = auth.NewToken()
	quoted := make([]string, len(roles))
	for i, r := range roles {
		b, _ := json.Marshal(r) // a string always encodes, and is YAML
		quoted[i] = string(b)
	}
	t.YAML = fmt.Sprintf("%s: {hash: %q, roles: [%s]", name, t.Hash, strings.Join(quoted, ", "))
	if expires != "" {
		t.YAML += ", expires: " + expires
	}
	t.YAML += "}"
	return t
}

func (a *app) printToken(t newToken) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(t)
	}
	fmt.Fprintf(a.out, "The token, which is shown only now:\n\n    %s\n\nFor ringmaster.yaml, under `auth`, `tokens`:\n\n    %s\n", t.Token, t.YAML)
	return nil
}
