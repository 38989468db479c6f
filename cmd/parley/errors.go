package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// Exit codes are part of the contract.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitCheck       = 4
	exitNotFound    = 5
	exitRefused     = 6
	exitTimeout     = 7
	exitConfig      = 78
	exitInterrupted = 130
)

// A codeError is an error that knows its exit code.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// errSaid has no text: the command's answer said it all.
var errSaid = errors.New("")

func fail(code int, format string, args ...any) error {
	return &codeError{code, fmt.Errorf(format, args...)}
}

// usage says that the command line is wrong, and where to read how it is right.
func usage(c *cobra.Command, err error) error {
	return fail(exitUsage, "%w: see %s --help", err, c.CommandPath())
}

// isCobraUsage knows the errors that cobra makes by itself; it has no types
// for them.
func isCobraUsage(err error) bool {
	if err == nil {
		return false
	}
	for _, start := range []string{"unknown command", "required flag(s)", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(err.Error(), start) {
			return true
		}
	}
	return false
}

// An apiError is a refusal by the node.
type apiError struct {
	Status int    `json:"status"`
	Code   string `json:"code"` // PLY-…, "" of routes with a shape of their own
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Reason string `json:"reason"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
		Value    any    `json:"value"`
	} `json:"errors"`

	asked bool // by GET, whose parameters are the command's arguments
}

func (e *apiError) Error() string {
	text := e.Detail
	if text == "" {
		text = strings.ToLower(e.Title)
	}
	var subs []string
	for _, sub := range e.Errors {
		where := sub.Location[strings.LastIndexByte(sub.Location, '.')+1:] // of query.state
		if value, ok := sub.Value.(string); ok {
			where = strings.TrimSpace(fmt.Sprintf("%s %q", where, value))
		}
		subs = append(subs, strings.TrimPrefix(where+": "+sub.Message, ": "))
	}
	if len(subs) > 0 && strings.HasPrefix(text, strings.TrimPrefix(e.Errors[0].Location+": "+e.Errors[0].Message, ": ")) { // the first of them
		text = strings.Join(subs, "; ")
	} else if len(subs) > 0 {
		text += "; " + strings.Join(subs, "; ")
	}
	switch e.exit() {
	case exitRefused:
		if text = withToken(text); e.Code == "PLY-013" {
			text += "; or ask by the node's local socket"
		}
	case exitNotFound, exitTimeout:
	default:
		if e.Status == http.StatusTooManyRequests {
			text += ": try again later"
		}
	}
	if e.Code != "" && !strings.Contains(text, e.Code) {
		text += " [" + e.Code + "]"
	}
	return text
}

// withToken says how a command comes by the token that it lacks, in place of how
// a request does.
func withToken(text string) string {
	what, _, _ := strings.Cut(text, ": send Authorization")
	if !strings.Contains(what, "a token") {
		return text // a Host or an origin is refused, or no token is checked
	}
	scope := ""
	if strings.Contains(what, "scope admin") {
		scope = " --scope admin"
	}
	return what + ": give one with --token-file FILE (on the node's machine: parley token create" + scope + " > FILE), or ask by the node's local socket"
}

func (e *apiError) exit() int {
	switch {
	case e.Code == "PLY-013" || e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden && e.Code != "PLY-017":
		return exitRefused
	case e.Status == http.StatusNotFound || e.Status == http.StatusGone:
		return exitNotFound
	case e.Status == http.StatusGatewayTimeout:
		return exitTimeout
	case e.asked && (e.Code == "PLY-002" || e.Code == "PLY-003"):
		return exitUsage
	}
	return exitFailed
}

// exitCode is the exit code of a command that ended with err.
func exitCode(ctx context.Context, err error) int {
	var coded *codeError
	var refused *apiError
	var faults *config.FaultsError
	var start *parley.StartError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &refused):
		return refused.exit()
	case errors.As(err, &faults), errors.As(err, &start):
		return exitConfig
	case isCobraUsage(err):
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return exitTimeout
	}
	return exitFailed
}

// errorCode is the code that the interfaces give a fault of this machine, ""
// where they have none. Faults with a code of their own have it in their text.
func errorCode(err error, exit int) string {
	if no, ok := errors.AsType[*apiError](err); ok {
		return no.Code
	}
	switch {
	case exit == exitNotFound, exit == exitFailed && errors.Is(err, fs.ErrNotExist):
		return "PLY-006" // not found
	case exit == exitRefused:
		return "PLY-005" // forbidden
	case exit == exitUnreachable:
		return "PLY-100" // node does not answer
	case exit == exitTimeout:
		return "PLY-015" // timeout
	}
	return ""
}

// errFollowed ends what shows something until the user has seen enough.
var errFollowed = fmt.Errorf("followed until the user ended it: %w", context.Canceled)

// printError writes each error on a line of its own.
func printError(ctx context.Context, w io.Writer, err error) {
	if errors.Is(err, errFollowed) {
		return
	}
	if exitCode(ctx, err) == exitInterrupted {
		fmt.Fprintln(w, "error: interrupted")
		return
	}
	text, exit := err.Error(), exitCode(ctx, err)
	if !strings.Contains(text, "[PLY-") {
		code := errorCode(err, exit)
		switch first, rest, more := strings.Cut(text, "\n"); {
		case code != "" && more:
			text = first + " [" + code + "]\n" + rest
		case code != "":
			text += " [" + code + "]"
		case exit == exitUsage && !says(text, "--help", "see parley", "say yes with"):
			text += ": see parley --help"
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.Map(printable, line); strings.TrimSpace(line) != "" {
			fmt.Fprintln(w, "error: "+line)
		}
	}
}

// says tells whether a text has its next step already.
func says(text string, steps ...string) bool {
	return slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(text, s) })
}

// printable keeps words from outside from moving the terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}
