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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parley-p2p/parley/consortium"
)

const interrupted = 130 // exit code

func main() {
	if beServer() {
		return
	}
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
	only := flags.String("only", "", "measure these sections, as a comma-separated list of "+strings.Join(sectionNames(), ", ")+" (default: all)")
	nodes := flags.String("nodes", "", "numbers of validators of section load, as in 1,4")
	bodies := flags.String("bodies", "", "sizes of bodies of section load in bytes, as in 256,4096")
	episodes := flags.Int("episodes", 0, "leaders of section stall that are killed and started again at once (default: 40)")
	keep := flags.Bool("keep", false, "keep the nodes' directories when the run fails")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r := &report{Harness: "loopback", Short: *short, Plan: whole, Machine: look(ctx)}
	part := *only != "" || *nodes != "" || *bodies != "" || *episodes != 0
	if *short {
		r.Plan = smoke
	} else if *results == "" && !part {
		*results = filepath.Join("docs", "bench")
	}
	if err := r.Plan.narrow(*nodes, *bodies, *episodes); err != nil {
		return err
	}
	parts, err := chosen(*only)
	if err != nil {
		return err
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
	if b.binary, err = build(ctx, *binary, dir); err != nil {
		return err
	}
	if err := b.measure(ctx, r, parts, out); err != nil {
		return err
	}
	if *results == "" {
		return nil
	}
	return r.save(*results)
}

// measure fills r, section by section, and prints it to out.
func (b *bench) measure(ctx context.Context, r *report, parts []section, out io.Writer) (err error) {
	if r.Machine.Fsync, err = fsyncTimes(b.dir, 100); err != nil {
		return err
	}
	for _, p := range parts {
		if err := p.measure(b, ctx, r); err != nil {
			for _, p := range parts {
				fmt.Fprint(out, p.table(r)) // what was measured before; it is not saved
			}
			return fmt.Errorf("section %s: %w", p.name, err)
		}
	}
	r.finish(b.begin)
	fmt.Fprintf(out, "%s\n%s", r.honest(), r.tables())
	return nil
}

// section is one part of a run.
type section struct {
	name    string
	measure func(*bench, context.Context, *report) error
	table   func(*report) string // "" where it was not measured
}

// sections in the order of a run.
func sections() []section {
	return []section{
		{"load", (*bench).measureLoad, (*report).table},
		{"stall", (*bench).measureStall, (*report).stallTable},
		{"sync", (*bench).measureSyncs, (*report).syncTable},
		{"announce", (*bench).measureAnnouncements, (*report).announceTable},
		{"addrbook", (*bench).measureAddrbook, (*report).addrbookTable},
		{"discovery", (*bench).measureDiscovery, (*report).discoveryTable},
		{"bans", (*bench).measureBans, (*report).bansTable},
		{"fanout", (*bench).measureFanout, (*report).fanoutTable},
		{"rest", (*bench).measureRest, (*report).restTable},
		{"sidecar", (*bench).measureSidecar, (*report).sidecarTable},
	}
}

func sectionNames() (names []string) {
	for _, s := range sections() {
		names = append(names, s.name)
	}
	return names
}

// chosen are the sections that a list names, all for none.
func chosen(list string) (parts []section, err error) {
	if list == "" {
		return sections(), nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(sectionNames(), strings.TrimSpace(name))
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there is no section %q, want some of %s", list, name, strings.Join(sectionNames(), ", "))
		}
		parts = append(parts, sections()[i])
	}
	return parts, nil
}

// narrow measures a part of the plan.
func (p *plan) narrow(nodes, bodies string, episodes int) (err error) {
	if nodes != "" {
		if p.Nodes, err = numbers("-nodes", nodes, 31); err != nil {
			return err
		}
	}
	if bodies != "" {
		if p.Bodies, err = numbers("-bodies", bodies, consortium.MaxBody); err != nil {
			return err
		}
	}
	if episodes < 0 {
		return fmt.Errorf("-episodes %d: want a count", episodes)
	}
	if episodes > 0 {
		p.Stall.Fast = episodes
	}
	return nil
}

func numbers(flag, list string, most int) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%s %s: %q is no number from 1 to %d", flag, list, text, most)
		}
		all = append(all, n)
	}
	return all, nil
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
