package main

import (
	"errors"
	"io/fs"

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
		Use: "show [FILE]", Short: "Fingerprints of keys (default: p2p.shared_key_file)", Args: cobra.MaximumNArgs(1),
		Example: "parley key psk show\nparley key psk show swarm.key",
		RunE:    func(_ *cobra.Command, args []string) error { return g.pskShow(args) },
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

func (g *globals) pskShow(args []string) error {
	var path string
	if len(args) > 0 {
		path = args[0]
	} else {
		cfg, err := g.load(nil)
		if err != nil {
			return err
		}
		if path = cfg.Path(cfg.P2P.SharedKeyFile); path == "" {
			return fail(exitNotFound, "p2p.shared_key_file is not set: name a file")
		}
	}
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
	type row struct {
		Key   string `json:"key"`
		Dials bool   `json:"dials"`
	}
	rows := make([]row, len(keys))
	t := &table{columns: []column{{name: "KEY"}, {name: "USE"}}}
	for i, k := range keys {
		rows[i] = row{k.String(), i == 0}
		use := "accepted"
		if i == 0 {
			use = "dials, accepted"
		}
		t.add(k.String(), use)
	}
	return g.showValue(map[string]any{"file": path, "keys": rows}, func() *table { return t })
}
