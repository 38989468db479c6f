package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/config"
)

// globals are the flags that every command has, and the three streams.
type globals struct {
	node, tokenFile, output, color string
	config, dataDir, bundle        string
	json, quiet, verbose, noInput  bool
	limit                          int
	timeout, watch                 time.Duration
	arrange                        arrange

	in       io.Reader
	out, err io.Writer
}

const defaultTimeout = 10 * time.Second

func newGlobals() *globals { return &globals{in: os.Stdin, out: os.Stdout, err: os.Stderr} }

func (g *globals) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&g.node, "node", "", "node to ask: host:port, URL, unix:PATH (else PARLEY_NODE, local)")
	f.StringVar(&g.bundle, "bundle", "", "read this support archive, and ask no node")
	f.StringVar(&g.tokenFile, "token-file", "", "file with an API token")
	f.StringVarP(&g.output, "output", "o", "table", "table, wide, json, jsonl, yaml, csv or template=T")
	f.BoolVar(&g.json, "json", false, "the API's answer as it is (= -o json)")
	f.DurationVar(&g.watch, "watch", 0, "show again every 2s, or --watch=5s")
	f.Lookup("watch").NoOptDefVal, f.Lookup("watch").DefValue = "2s", ""
	f.IntVar(&g.limit, "limit", 0, "at most so many rows")
	g.arrange.register(f)
	f.DurationVar(&g.timeout, "timeout", defaultTimeout, "for the node to answer")
	f.StringVar(&g.config, "config", "", "configuration (else ./parley.toml, user's, /etc/parley)")
	f.StringVar(&g.dataDir, "data-dir", "", "data directory of the node to run or to ask")
	f.StringVar(&g.color, "color", "auto", "auto, always or never")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "data only, no talk")
	f.BoolVarP(&g.verbose, "verbose", "v", false, "more talk: which node is asked")
	f.BoolVar(&g.noInput, "no-input", false, "never ask")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error { return g.check(c) }
	root.PersistentPostRun = func(*cobra.Command, []string) {
		if g.arrange.wanted() && !g.arrange.done {
			g.say("--sort, --filter and --columns are for lists: nothing was done with them")
		}
	}
}

// check looks at the flags that have rules.
func (g *globals) check(c *cobra.Command) error {
	if g.json {
		g.output = "json"
	}
	switch name, _, _ := strings.Cut(g.output, "="); name {
	case "table", "wide", "json", "jsonl", "yaml", "csv", "template":
	default:
		return usage(c, fmt.Errorf("-o %s: want table, wide, json, jsonl, yaml, csv or template=T", g.output))
	}
	if g.limit < 0 {
		return usage(c, fmt.Errorf("--limit %d: want 1 or more", g.limit))
	}
	switch g.color { // the libraries below read these
	case "always":
		return errors.Join(os.Unsetenv("NO_COLOR"), os.Setenv("CLICOLOR_FORCE", "1"))
	case "never":
		return os.Setenv("NO_COLOR", "1")
	case "auto":
		return nil
	}
	return usage(c, fmt.Errorf("--color %s: want auto, always or never", g.color))
}

// load reads the configuration. Warnings are the caller's to tell.
func (g *globals) load() (*config.Loaded, error) { return g.loadWith(config.LoadArgs{}) }

// loadWith is load with the keys and settings in args, which has nothing else.
func (g *globals) loadWith(args config.LoadArgs) (*config.Loaded, error) {
	args.File, args.Environ = g.config, os.Environ()
	args.Flags, args.Sets = maps.Clone(args.Flags), maps.Clone(args.Sets)
	if g.dataDir != "" {
		if args.Flags == nil {
			args.Flags = map[string]string{}
		}
		args.Flags["data_dir"] = g.dataDir
		delete(args.Sets, "data_dir")
	}
	return config.Load(args)
}

// say talks to people, on stderr.
func (g *globals) say(format string, args ...any) {
	if !g.quiet {
		fmt.Fprintf(g.err, format+"\n", args...)
	}
}

// terminal tells whether w is one, and how wide it is.
func terminal(w any) (width int, ok bool) {
	f, isFile := w.(term.File)
	if !isFile || !term.IsTerminal(f.Fd()) {
		return 0, false
	}
	width, _, err := term.GetSize(f.Fd())
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

// notify ends the context at the first signal to stop, which is a clean end
// for what runs until then. At the second the process ends at once.
func notify(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitInterrupted)
	}()
	return ctx, cancel
}

// confirmed says whether a step that somebody may not want is done: by its
// flag, or by a person at a terminal. name is the flag that answers.
func (g *globals) confirmed(flag bool, name, question string) error {
	if flag {
		return nil
	}
	if _, tty := terminal(g.in); !tty || g.noInput {
		return fail(exitUsage, "%s: say yes with %s", question, name)
	}
	fmt.Fprintf(g.err, "%s. Go on? [y/N] ", question)
	var answer string
	_, _ = fmt.Fscanln(g.in, &answer) // no answer is no
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return fail(exitFailed, "left as it was")
	}
	return nil
}

// noColor says that the user wants no colours.
func noColor() bool { return os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" }
