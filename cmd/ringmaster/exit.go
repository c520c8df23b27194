package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Exit statuses. A run that a signal ended exits with 128 + its number.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 3
	exitDeadline    = 4
)

// usageError is a command line that makes no sense.
type usageError struct {
	message string
	command string // whose --help would tell more
}

func (e *usageError) Error() string { return e.message }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...), command: cmd.CommandPath()}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	message := fmt.Sprintf("unknown command %q", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		slices.Sort(near)
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef(cmd, "%s", message)
}

// silently is an exit status whose reason has been printed already.
type silently int

func (s silently) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exit prints an error to stderr and returns its exit status.
func (a *app) exit(err error) int {
	if err == nil {
		return exitOK
	}
	var said silently
	if errors.As(err, &said) {
		return int(said)
	}
	var usage *usageError
	if !a.ran && !errors.As(err, &usage) {
		usage = &usageError{message: err.Error(), command: "ringmaster"} // cobra's own, about arguments
		err = usage
	}
	if a.json {
		a.printErrorJSON(err)
	} else {
		a.printError(err)
	}
	return status(err)
}

func status(err error) int {
	var usage *usageError
	var cfg config.Errors
	var signalled *interruption
	var failure *ipc.Error
	switch {
	case errors.As(err, &usage), errors.As(err, &cfg), isConfigError(err):
		return exitUsage
	case errors.As(err, &signalled):
		return 128 + int(signalled.signal)
	case errors.As(err, &failure) && failure.Code == ipc.Unavailable:
		return exitUnavailable
	case errors.As(err, &failure) && failure.Code == ipc.DeadlineExceeded:
		return exitDeadline
	}
	return exitFailed
}

// printError prints an error for people.
func (a *app) printError(err error) {
	var usage *usageError
	var failure *ipc.Error
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(a.err, "ringmaster: %s\nRun `%s --help` for usage.\n", usage.message, usage.command)
	case errors.As(err, &failure) && !isConfigError(err):
		fmt.Fprintf(a.err, "ringmaster: %v\n", failure)
		if failure.RetryAfter > 0 {
			fmt.Fprintf(a.err, "Try again in %v.\n", failure.RetryAfter)
		}
		if trace := strings.TrimRight(failure.Details["traceback"], "\n"); trace != "" {
			fmt.Fprintln(a.err, trace)
		}
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(a.err, "ringmaster: %s\n", line)
		}
	}
}

// errorJSON is how --json prints an error: {"error": {…}}, in one line.
type errorJSON struct {
	Code         string            `json:"code"`
	Reason       string            `json:"reason"`
	Message      string            `json:"message"`
	RetryAfterMS int64             `json:"retry_after_ms,omitempty"`
	Details      map[string]string `json:"details,omitempty"`
}

func (a *app) printErrorJSON(err error) {
	var usage *usageError
	e := ipc.AsError(err)
	if errors.As(err, &usage) {
		e = ipc.Errorf(ipc.InvalidArgument, "usage", "%s", usage.message)
	}
	out := errorJSON{string(e.Code), e.Reason, e.Message, e.RetryAfter.Milliseconds(), e.Details}
	_ = json.NewEncoder(a.err).Encode(map[string]errorJSON{"error": out})
}
