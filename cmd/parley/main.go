// Command parley owns the command line: it runs a node, and asks one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"charm.land/fang/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parley-p2p/parley"
)

func main() { os.Exit(run()) }

// run is main with an exit code, for tests.
func run() int {
	if filepath.Base(os.Args[0]) == "printenv" { // a link of this name serves containers without a shell
		return printEnv(os.Stdout, os.Args[1:])
	}
	g := newGlobals()
	ctx, stop := notify(context.Background())
	defer stop()
	return exitCode(ctx, execute(ctx, rootCommand(g)))
}

// execute runs the command that the arguments name, and tells of its error.
func execute(ctx context.Context, root *cobra.Command) error {
	h := &helper{}
	help, out := newHelpPage(root.OutOrStdout())
	root.SetOut(out)
	check := root.PersistentPreRunE
	root.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		help.plain = c.HasParent() && c.Parent().Name() == "completion"
		return check(c, args)
	}
	for _, c := range root.Commands() { // the root's own page is fang's: it has every flag
		c.SetHelpFunc(h.show)
	}
	return fang.Execute(ctx, root, fang.WithoutVersion(), fang.WithColorSchemeFunc(h.scheme), fang.WithErrorHandler(func(w io.Writer, _ fang.Styles, err error) {
		printError(ctx, w, err)
	}))
}

func rootCommand(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:     "parley",
		Short:   "A peer-to-peer node for blockchain networks",
		Long:    "Runs a node that finds peers and keeps one chain with them; or asks a node.",
		Example: "parley devnet\nparley run --peers node1:8080,node2:8080\nparley status\nparley tx submit record.json",
		Version: parley.BuildVersion().Version,
	}
	root.AddGroup(&cobra.Group{ID: "run", Title: "run"}, &cobra.Group{ID: "look", Title: "look"},
		&cobra.Group{ID: "chain", Title: "chain and records"}, &cobra.Group{ID: "set", Title: "settings"})
	g.register(root)
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("run", runCommand(g), devnetCommand(g))
	group("look", statusCommand(g), healthCommand(g), explainCommand(g), peersCommand(g), addrsCommand(g), bansCommand(g), dhtCommand(g), gossipCommand(g), eventsCommand(g), logsCommand(g), debugCommand(g))
	group("chain", chainCommand(g), txCommand(g))
	group("set", keyCommand(g), backupCommand(g), configCommand(g), tokenCommand(g), apiCommand(g), versionCommand(g))
	strict(root)
	return root
}

// strict makes wrong flags and arguments of every command usage errors, and
// makes a command that only holds others say so instead of doing nothing.
func strict(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2 // letters
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, flagFault(err)) })
	before := c.PreRun
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if err := c.ValidateFlagGroups(); err != nil {
			return usage(c, groupFault(err))
		}
		if before != nil {
			before(c, args)
		}
		return nil
	}
	if c.RunE == nil && c.Run == nil && c.HasSubCommands() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return fmt.Errorf("unknown command %q for %q%s", args[0], c.CommandPath(), didYouMean(c.SuggestionsFor(args[0])))
		}
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage(c, wantArgs(c, args, err))
			}
			return nil
		}
	}
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		err := run(c, args)
		if isCobraUsage(err) {
			return usage(c, err)
		}
		return err
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// flagFault says what a flag wants whose value does not parse, in the words of
// the manual and not of the parser.
func flagFault(err error) error {
	bad, is := errors.AsType[*pflag.InvalidValueError](err)
	if !is {
		return err
	}
	var want string
	switch kind := bad.GetFlag().Value.Type(); {
	case kind == "duration":
		want = "a duration like 10s or 24h"
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		want = "a whole number"
	case kind == "bool":
		want = "true or false"
	default:
		return err
	}
	return fmt.Errorf("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// What cobra says of groups of flags.
var (
	together = regexp.MustCompile(`none of the others can be; \[(.+)\] were all set$`)
	missing  = regexp.MustCompile(`^at least one of the flags in the group \[(.+)\] is required$`)
)

func groupFault(err error) error {
	if m := together.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("--%s do not go together", strings.Join(strings.Fields(m[1]), " and --"))
	}
	if m := missing.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("--%s is missing", strings.Join(strings.Fields(m[1]), " or --"))
	}
	return err
}

// wantArgs says in the words of the command what cobra says in numbers.
func wantArgs(c *cobra.Command, args []string, err error) error {
	if strings.HasPrefix(err.Error(), "unknown command") { // of cobra.NoArgs
		if !c.HasSubCommands() {
			return fmt.Errorf("%q is too much: %s takes no arguments", args[0], c.CommandPath())
		}
		return fmt.Errorf("%w%s", err, didYouMean(c.SuggestionsFor(args[0])))
	}
	_, want, ok := strings.Cut(c.Use, " ")
	if text := err.Error(); !ok || !strings.HasPrefix(text, "accepts ") && !strings.HasPrefix(text, "requires ") {
		return err
	}
	return fmt.Errorf("want %s, have %s", want, count(len(args), "argument"))
}

func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", did you mean " + strings.Join(names, " or ") + "?"
}

// printEnv is the printenv of containers that have no other.
func printEnv(w io.Writer, names []string) int {
	if len(names) == 0 {
		for _, pair := range os.Environ() {
			fmt.Fprintln(w, pair)
		}
		return 0
	}
	code := 0
	for _, name := range names {
		value, ok := os.LookupEnv(name)
		if !ok {
			code = 1
			continue
		}
		fmt.Fprintln(w, value)
	}
	return code
}
