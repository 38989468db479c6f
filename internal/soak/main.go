// Package main of soak owns the proof by processes: it kills, cuts and starves
// real nodes under load, and holds what they store to what clients were told.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const interrupted = 130 // exit code

var errMiss = errors.New("a promise was broken")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil && !errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	case ctx.Err() != nil:
		os.Exit(interrupted)
	}
}

// options are the flags.
type options struct {
	dir, binary string
	long, round time.Duration
	slow        time.Duration
	seed        uint64
	only        []string
	committed   bool
	keepGoing   bool
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "soak.out", "directory of the state, and of nodes; a later run there goes on")
	flags.StringVar(&o.binary, "parley", "", "test this binary (default: built from this tree)")
	flags.DurationVar(&o.long, "for", 10*time.Minute, "begin rounds for that long")
	flags.DurationVar(&o.round, "round", time.Minute, "faults of one round")
	flags.Uint64Var(&o.seed, "seed", 0, "run the round of this seed alone, and leave the state as it is")
	flags.BoolVar(&o.committed, "committed", false, "hold the nodes to answers of level committed only")
	flags.DurationVar(&o.slow, "slow", 0, "keep the directory of a round with a stall longer than that, 0 = never")
	flags.BoolVar(&o.keepGoing, "keep-going", false, "go on with the next round after a red one")
	only := flags.String("only", "", "these kinds of faults alone, by comma, such as wipe,full disk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if o.only, err = parseFaults(*only); err != nil {
		return err
	}
	if why := able(ctx); why != "" {
		return errors.New(why)
	}
	if err := o.prepare(ctx); err != nil {
		return err
	}
	return o.soak(ctx, out)
}

// prepare makes absolute paths, removes what a killed run left, and builds.
func (o *options) prepare(ctx context.Context) error {
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if err := errors.Join(sweep(ctx), unmountAll(o.dir)); err != nil {
		return err
	}
	if o.binary == "" {
		o.binary = filepath.Join(o.dir, "parley")
		return build(ctx, o.binary)
	}
	o.binary, err = filepath.Abs(o.binary)
	return err
}

func build(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", to, "github.com/parley-p2p/parley/cmd/parley")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build parley: %w: %s", err, out)
	}
	return nil
}

// soak runs rounds until the time is over, and prints the table at the end,
// whatever ended it.
func (o *options) soak(ctx context.Context, out io.Writer) error {
	path := filepath.Join(o.dir, "soak.json")
	s, err := readState(path)
	if err != nil {
		return err
	}
	single := o.seed != 0
	if s == nil || single {
		s = &state{Format: stateFormat, Seed: rand.Uint64N(1e9) * 1000}
	}
	if single {
		s.Seed = o.seed
	}
	defer func() { fmt.Fprintf(out, "\n%s", s.Totals.table()) }()
	for end := time.Now().Add(o.long); time.Now().Before(end) && ctx.Err() == nil; {
		p := newPlan(s.Seed+uint64(s.Totals.Rounds), o.round)
		if p.Only = o.only; p.Only != nil {
			p.SmallDisk, p.Wipe = p.Validators > 1, p.Validators > 1
		}
		p.Accept, p.Slow = p.Accept && !o.committed, o.slow
		fmt.Fprintf(out, "round %d, seed %d: %d validators, %d followers, %d clients\n", s.Totals.Rounds+1, p.Seed, p.Validators, p.Followers, p.Clients)
		dir := filepath.Join(o.dir, fmt.Sprintf("seed-%d", p.Seed))
		if single {
			dir += "-again" // the first one may be kept
		}
		t, err := runRound(ctx, p, dir, o.binary, out)
		if ctx.Err() != nil {
			break // half a round proves nothing
		}
		fmt.Fprintf(out, "round %d %s\n", s.Totals.Rounds+1, t.line())
		s.Totals.join(t)
		if err != nil {
			return errors.Join(fmt.Errorf("round of seed %d: %w", p.Seed, err), s.write(path))
		}
		if single {
			break
		}
		if err := s.write(path); err != nil {
			return err
		}
		if len(t.Misses) > 0 && !o.keepGoing {
			break
		}
	}
	if n := len(s.Totals.Misses); n > 0 { // of earlier runs too: they stay until somebody removes the state
		return fmt.Errorf("%w: %d times; the nodes' directories are kept in %s", errMiss, n, o.dir)
	}
	return ctx.Err()
}
