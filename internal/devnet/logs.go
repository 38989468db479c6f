package devnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	maxTail     = 1 << 20 // bytes of a log's end that are read for its last lines
	maxLine     = 64 << 10
	followEvery = 200 * time.Millisecond
)

// Logs writes the last lines of the nodes' logs, of all nodes without names,
// and with follow goes on until ctx ends. Where there are several nodes, each
// line begins with its node's name.
func (n *Net) Logs(ctx context.Context, w io.Writer, names []string, lines int, follow bool) error {
	s, err := n.State()
	if err != nil {
		return err
	}
	var which []Node
	for _, name := range names {
		node, err := s.node(name)
		if err != nil {
			return err
		}
		which = append(which, *node)
	}
	if len(names) == 0 {
		which = s.Nodes
	}
	tails := make([]*follower, len(which))
	for i, node := range which {
		prefix := ""
		if len(which) > 1 {
			prefix = node.Name + " | "
		}
		tails[i] = &follower{path: n.logPath(node.Name), prefix: prefix}
		defer tails[i].close()
		if err := tails[i].last(w, lines); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	poll(ctx, followEvery, func() bool {
		for _, t := range tails {
			if err = t.more(w); err != nil {
				return true
			}
		}
		return false
	})
	return err
}

// follower reads a log that grows.
type follower struct {
	path, prefix string
	f            *os.File
	part         []byte // of a line that has no end yet
}

func (t *follower) close() {
	if t.f != nil {
		_ = t.f.Close()
	}
}

// last writes the last lines, and leaves the file where they end.
func (t *follower) last(w io.Writer, lines int) error {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // not started yet
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	t.f = f
	texts, part, err := tail(f, lines)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	t.part = part
	for _, line := range texts {
		if _, err := fmt.Fprintln(w, t.prefix+line); err != nil {
			return err
		}
	}
	return nil
}

// more writes the whole lines that have come since.
func (t *follower) more(w io.Writer) error {
	if t.f == nil {
		f, err := os.Open(t.path)
		if err != nil {
			return nil // not there yet
		}
		t.f = f
	}
	b, err := io.ReadAll(io.LimitReader(t.f, maxTail))
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	t.part = append(t.part, b...)
	for {
		line, rest, whole := bytes.Cut(t.part, []byte("\n"))
		if !whole && len(line) < maxLine {
			return nil
		}
		t.part = rest
		if _, err := fmt.Fprintf(w, "%s%s\n", t.prefix, line); err != nil {
			return err
		}
	}
}

// tail reads the last whole lines of f, and what follows them without an end.
// f stands at its end then.
func tail(f *os.File, lines int) (texts []string, part []byte, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, nil, err
	}
	from := max(0, size-maxTail)
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, size-from))
	if err != nil {
		return nil, nil, err
	}
	if from > 0 { // begins within a line
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	all := bytes.Split(b, []byte("\n"))
	part = all[len(all)-1]
	all = all[:len(all)-1]
	for _, line := range all[max(0, len(all)-lines):] {
		texts = append(texts, string(line))
	}
	return texts, bytes.Clone(part), nil
}
