// Package main of bench owns the figures: it puts real nodes under load and
// prints what they do beside the limits of the machine, all in one run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const interrupted = 130 // exit code

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; all nodes are stopped")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, talk io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(talk)
	short := flags.Bool("short", false, "a smoke run: few records, nothing is saved unless -out is given")
	binary := flags.String("parley", "", "measure this binary (default: built from this tree)")
	where := flags.String("dir", "", "directory for the nodes' data, on the disk to measure (default: that of temporary files)")
	results := flags.String("out", "", "directory for latest.json and README.md (default: docs/bench for a whole run)")
	only := flags.String("only", "", "one section alone: nodes or sync; saved only if -out is given")
	keep := flags.Bool("keep", false, "keep the nodes' directories when the run fails")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *only != "" && *only != "nodes" && *only != "sync" {
		return fmt.Errorf("-only %q: there are the sections nodes and sync", *only)
	}
	r := &report{Harness: "loopback", Short: *short, Plan: whole, Machine: look(ctx)}
	if *short {
		r.Plan = smoke
	} else if *results == "" && *only == "" {
		*results = filepath.Join("docs", "bench")
	}
	dir, err := os.MkdirTemp(*where, "parley-bench-")
	if err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	defer func() {
		if err != nil && *keep {
			err = fmt.Errorf("%w\nthe nodes' directories are kept in %s", err, dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	b := &bench{plan: r.Plan, dir: dir, keep: *keep, cores: r.Machine.Cores, begin: time.Now(), say: talk}
	if r.Machine.Fsync, err = fsyncTimes(dir, 100); err != nil {
		return err
	}
	if *only != "sync" {
		if err := b.devnets(ctx, r, *binary); err != nil {
			if len(r.Rows) > 0 {
				fmt.Fprint(out, r.table()) // of those before; it is not saved
			}
			return err
		}
	}
	if *only != "nodes" {
		if r.Sync, err = b.syncs(ctx); err != nil {
			return err
		}
		for _, body := range []int{4096, 256} {
			row, err := measureAnnouncement(ctx, dir, body)
			if err != nil {
				return err
			}
			r.Announcements = append(r.Announcements, row)
		}
	}
	r.finish(b.begin)
	fmt.Fprintf(out, "%s\n%s", r.honest(), r.tables())
	if *results == "" {
		return nil
	}
	return r.save(*results)
}

// devnets measures networks of real processes.
func (b *bench) devnets(ctx context.Context, r *report, binary string) (err error) {
	if b.binary, err = build(ctx, binary, b.dir); err != nil {
		return err
	}
	for _, nodes := range r.Plan.Nodes {
		row, err := b.measure(ctx, nodes)
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, row)
	}
	return nil
}

// syncs measures how a newcomer gets a chain.
func (b *bench) syncs(ctx context.Context) (rows []syncRow, err error) {
	for _, p := range b.plan.Syncs {
		row, err := measureSync(ctx, b.dir, p)
		if err != nil {
			return nil, err
		}
		b.tell("sync of %d MiB in %d B records: %s MB/s from %d peers, %s raw", row.Bytes/mib, row.Body, row.Three.text(), honestPeers, row.Stream.text())
		rows = append(rows, row)
	}
	return rows, nil
}

// build makes the binary of this tree, so that the figures are never those of
// an old one.
func build(ctx context.Context, binary, dir string) (string, error) {
	if binary != "" {
		return filepath.Abs(binary)
	}
	path := filepath.Join(dir, "parley")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/parley-p2p/parley/cmd/parley")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build parley: %w\n%s", err, out)
	}
	return path, nil
}
