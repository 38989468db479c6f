package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// Who ends what he follows has made no error, and the shell still learns of the
// signal.
func TestFollowedIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	printError(ctx, &out, errFollowed)
	if out.Len() > 0 || exitCode(ctx, errFollowed) != exitInterrupted {
		t.Errorf("%q, exit %d", out.String(), exitCode(ctx, errFollowed))
	}
	printError(ctx, &out, errors.Join(errors.New("x"), context.Canceled))
	if out.String() != "error: interrupted\n" {
		t.Errorf("what was broken off says %q", out.String())
	}
}
