package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestNetwork cuts one direction, both and all, and heals.
func TestNetwork(t *testing.T) {
	t.Parallel()
	needsLab(t)
	w, err := newNetwork(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	cut := func() error { return w.cut(t.Context(), 1, 2) }
	unplug := func() error { return w.plug(t.Context(), 1, false) }
	split := func() error { return w.split(t.Context(), []int{1}, []int{2, 3}) }
	for _, c := range []struct {
		name     string
		do       func() error
		from, to int
		want     string
	}{
		{"one way", cut, 1, 2, "after"},
		{"other way", cut, 2, 1, "during"},
		{"third", cut, 1, 3, "during"},
		{"unplugged", unplug, 2, 1, "after"},
		{"split", split, 3, 1, "after"},
		{"split, same side", split, 2, 3, "during"},
	} {
		heard := hear(t, w, c.to)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		say(t, w, c.from, c.to, "during")
		if err := w.heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() { got <- heard() }()
		first := ""
		for first == "" { // a datagram is lost now and then: while a cable is plugged in, above all
			say(t, w, c.from, c.to, "after")
			select {
			case first = <-got:
			case <-time.After(100 * time.Millisecond):
			}
		}
		if first != c.want {
			t.Errorf("%s: %d heard %q of %d first, want %q", c.name, c.to, first, c.from, c.want)
		}
	}
}

// TestSweep removes the network of a harness that was killed, and what runs in
// it.
func TestSweep(t *testing.T) {
	t.Parallel()
	needsLab(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-")
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE=network")
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	space, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	space = strings.TrimSpace(space)
	left := exec.CommandContext(t.Context(), "ip", "netns", "exec", space, "sh", "-c", "echo there; exec sleep 3600")
	word, err := left.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(word).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/run/netns/" + space); err != nil {
		t.Fatalf("the network of a harness that runs was removed: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/run/netns/" + space); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", space, err)
	}
	if err := left.Wait(); err == nil {
		t.Error("what ran in the network goes on")
	}
}

func player(t *testing.T, w *network, node int, role, addr string, words ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"netns", "exec", w.space(node), os.Args[0], addr}, words...)
	cmd := exec.CommandContext(t.Context(), "ip", args...)
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// hear returns what gives the first word that a node hears.
func hear(t *testing.T, w *network, node int) func() string {
	t.Helper()
	cmd := player(t, w, node, "hear", address(node)+":7777")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		t.Fatal(err)
	}
	return func() string {
		b, err := io.ReadAll(out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
}

func say(t *testing.T, w *network, from, to int, word string) {
	t.Helper()
	if err := player(t, w, from, "say", address(to)+":7777", word).Run(); err != nil && word == "after" {
		t.Fatal(err) // without a cable the system may refuse to send
	}
}
