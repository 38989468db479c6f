package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// guest is one chat that runs.
type guest struct {
	t    *testing.T
	in   *io.PipeWriter
	out  chan string // lines
	done chan error
}

func join(ctx context.Context, t *testing.T, name, peers string) *guest {
	t.Helper()
	in, write := io.Pipe()
	read, out := io.Pipe()
	g := &guest{t: t, in: write, out: make(chan string, 64), done: make(chan error, 1)}
	go func() {
		err := chat(ctx, []string{"--data-dir", filepath.Join(t.TempDir(), name), "--peers", peers}, in, out, io.Discard)
		_ = out.Close() // of a pipe: never fails
		g.done <- err
	}()
	go func() {
		defer close(g.out)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			g.out <- lines.Text()
		}
	}()
	return g
}

// hears waits for a line that begins so, and returns the rest of it.
func (g *guest) hears(prefix string) string {
	g.t.Helper()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for {
		select {
		case line, ok := <-g.out:
			if !ok {
				g.t.Fatalf("it ended before it said %q: %v", prefix, <-g.done)
			}
			if rest, found := strings.CutPrefix(line, prefix); found {
				return rest
			}
		case <-late.C:
			g.t.Fatalf("in vain waited for %q", prefix)
		}
	}
}

// Two programs with a node in each talk to each other.
func TestChat(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ada := join(ctx, t, "ada", "")
	ben := join(ctx, t, "ben", ada.hears("address "))
	ben.hears("peer ")
	ada.hears("peer ")
	heard := make(chan struct{})
	go func() { // what is said before the other takes the topic is said to nobody
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			_, _ = io.WriteString(ada.in, "hello "+strings.Repeat("!", i)+"\n") // fails when the chat is over
			select {
			case <-heard:
				return
			case <-tick.C:
			}
		}
	}()
	ben.hears("hello")
	close(heard)
	if _, err := io.WriteString(ben.in, "good day\n"); err != nil {
		t.Fatal(err)
	}
	ada.hears("good day")
	for _, g := range []*guest{ada, ben} {
		if err := g.in.Close(); err != nil {
			t.Error(err)
		}
		if err := <-g.done; err != nil {
			t.Error(err)
		}
	}
}

// Wrong arguments are told with how it is used, once.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--peer", "x"}, {"127.0.0.1:8080"}} {
		var said strings.Builder
		if err := chat(t.Context(), args, strings.NewReader(""), io.Discard, &said); !errors.Is(err, errUsage) || strings.Count(said.String(), "usage: library") != 1 {
			t.Errorf("%v: %v, it says\n%s", args, err, said.String())
		}
	}
}
