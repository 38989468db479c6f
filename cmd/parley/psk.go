package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

func pskCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "psk", Short: "The shared key of a private network",
		Long: "Nodes with p2p.shared_key_file connect only with nodes that have one of the keys in that file, over TCP alone.\n" +
			"To change the key without a gap: 1. append the new one to the file of every node, 2. move it to the first place everywhere, " +
			"3. take the old one out. After each step: parley config reload. A key is not given up while peers are connected under it " +
			"alone: who still dials with it lacks step 2, the others connect anew with parley config reload --force.",
		Example: "parley key psk new --out swarm.key\nparley key psk show swarm.key",
	}
	c.AddCommand(pskNewCommand(g), &cobra.Command{
		Use: "show [FILE]", Short: "Fingerprints of the keys of the node, or of a file", Args: cobra.MaximumNArgs(1),
		Long: "Without FILE the node that runs is asked, by its local socket or with an admin's token; where none runs it is\n" +
			"p2p.shared_key_file of the configuration. Which of the two it was is told. Two nodes connect where one has a key of the other.",
		Example: "parley key psk show\nparley key psk show --data-dir node1\nparley key psk show swarm.key",
		RunE:    func(c *cobra.Command, args []string) error { return g.pskShow(c.Context(), args) },
	})
	return c
}

func pskNewCommand(g *globals) *cobra.Command {
	var out string
	var stdout bool
	c := &cobra.Command{
		Use: "new", Short: "Make a key", Args: cobra.NoArgs,
		Example: "parley key psk new --out swarm.key\nparley key psk new --stdout >>swarm.key",
		RunE: func(*cobra.Command, []string) error {
			key := parley.NewSharedKey()
			b := parley.FormatSharedKeys([]parley.SharedKey{key})
			if stdout {
				_, err := g.out.Write(b)
				return err
			}
			if err := createFile(out, b, 0o600); err != nil {
				return err
			}
			g.say("wrote %s with key %s: whoever has it can connect", out, key)
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "a new file, mode 0600")
	c.Flags().BoolVar(&stdout, "stdout", false, "to stdout")
	c.MarkFlagsMutuallyExclusive("out", "stdout")
	c.MarkFlagsOneRequired("out", "stdout")
	return c
}

// pskShow tells the keys of a file, or of the node where one runs: only that
// one knows with which it was started.
func (g *globals) pskShow(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return g.pskOf(args[0])
	}
	c, err := g.client()
	if err == nil && (g.named() != "" || strings.HasPrefix(c.name, "unix:")) {
		err = g.pskOfNode(ctx, c)
		if err == nil || g.named() != "" {
			return err
		}
	}
	if err != nil && exitCode(ctx, err) != exitUnreachable {
		return err
	}
	cfg, err := g.load()
	if err != nil {
		return err
	}
	g.say("no node runs on %s: this is what the configuration says", cfg.DataDir)
	path := cfg.Path(cfg.P2P.SharedKeyFile)
	if path == "" {
		return fail(exitNotFound, "p2p.shared_key_file is not set there: name a file, or the node that runs with --data-dir or --node")
	}
	return g.pskOf(path)
}

func (g *globals) pskOfNode(ctx context.Context, c *client) error {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	v, err := fetch[parley.SharedKeys](ctx, c, "shared-keys")
	switch {
	case err != nil:
		return err
	case len(v.Keys) == 0:
		return fail(exitNotFound, "the node %s runs without a shared key: it is in no private network", c.name)
	}
	g.say("the node %s runs with these keys, read from %s", c.name, cmp.Or(v.File, "its configuration"))
	return g.showKeys(v)
}

func (g *globals) pskOf(path string) error {
	keys, err := parley.LoadSharedKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(exitNotFound, "%w: make one with parley key psk new --out %s", err, path)
	}
	if err != nil && !(errors.Is(err, parley.ErrKeyMode) && keys != nil) {
		return &parley.StartError{Code: 101, Err: err}
	}
	if err != nil {
		g.say("%v", err)
	}
	return g.showKeys(parley.NameSharedKeys(path, keys))
}

func (g *globals) showKeys(v parley.SharedKeys) error {
	return g.showValue(v, func() *table {
		t := &table{columns: []column{{name: "KEY"}, {name: "USE"}}}
		for _, k := range v.Keys {
			use := "accepted"
			if k.Dials {
				use = "dials, accepted"
			}
			t.add(k.Key, use)
		}
		return t
	})
}
