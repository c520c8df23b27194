package ipc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says what kind of failure an [Error] is; the names are gRPC's.
type Code string

// The codes in use. docs/protocol.md, section 8, lists the reasons under each.
const (
	InvalidArgument   Code = "INVALID_ARGUMENT"
	NotFound          Code = "NOT_FOUND"
	PermissionDenied  Code = "PERMISSION_DENIED"
	ResourceExhausted Code = "RESOURCE_EXHAUSTED"
	Unavailable       Code = "UNAVAILABLE"
	DeadlineExceeded  Code = "DEADLINE_EXCEEDED"
	Cancelled         Code = "CANCELLED"
	Aborted           Code = "ABORTED"
	Internal          Code = "INTERNAL"
	Unimplemented     Code = "UNIMPLEMENTED"
	DataLoss          Code = "DATA_LOSS"
)

// Error is how a request fails, on the wire and in Go. Code and Reason are stable, for programs; Message is for people and says what to do next.
type Error struct {
	Code       Code
	Reason     string
	Message    string
	RetryAfter time.Duration     // 0: trying again soon will not help, or nobody knows when it will; whole milliseconds on the wire
	Details    map[string]string // for INTERNAL/handler: type, traceback
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s/%s: %s", e.Code, e.Reason, e.Message)
}

// Errorf makes an [Error].
func Errorf(code Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// AsError turns any error into an [Error]: itself if it is one, the matching code for a context's end, INTERNAL/internal otherwise. AsError(nil) is nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(DeadlineExceeded, "deadline", "the request's deadline has passed")
	case errors.Is(err, context.Canceled):
		return Errorf(Cancelled, "cancelled", "the request was cancelled by its caller")
	}
	return Errorf(Internal, "internal", "%v", err)
}

func protocolErrorf(format string, args ...any) *Error {
	return Errorf(DataLoss, "protocol", format, args...)
}
