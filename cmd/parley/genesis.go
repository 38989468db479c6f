package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/consortium"
)

func genesisCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "genesis", Short: "The start of a chain", Example: "parley chain genesis new --validator node1=KEY --out genesis.json"}
	c.AddCommand(genesisNewCommand(g))
	return c
}

func genesisNewCommand(g *globals) *cobra.Command {
	var chainID, out string
	var validators, admins []string
	c := &cobra.Command{
		Use: "new", Short: "Make a genesis with many validators at once", Args: cobra.NoArgs,
		Long: "Writes a genesis.json. Give it to every validator as consortium.genesis_file, and pin its hash with consortium.genesis_hash elsewhere.\n" +
			"A KEY is what parley key show prints: the peer id, or the public key.",
		Example: "parley chain genesis new --chain-id our-chain --out genesis.json \\\n" +
			"--validator node1=12D3KooW… --validator node2=12D3KooW… \\\n--validator node3=12D3KooW…",
		RunE: func(*cobra.Command, []string) error {
			gen, err := newGenesis(chainID, validators, admins)
			if err != nil {
				return err
			}
			body, err := json.MarshalIndent(gen, "", "  ")
			if err != nil {
				return err
			}
			if out == "-" {
				return writeLine(g.out, body)
			}
			if err := createFile(out, append(body, '\n'), 0o644); err != nil {
				return err
			}
			g.say("wrote %s: chain %s with %s: %s; its genesis hash:", out, gen.ChainID, count(len(validators), "validator"), survives(tolerance(len(validators))))
			return writeLine(g.out, []byte(gen.Hash().String()))
		},
	}
	c.Flags().StringArrayVar(&validators, "validator", nil, "NAME=KEY, once for each validator")
	c.Flags().StringArrayVar(&admins, "admin", nil, "KEY that may change the validators (default: each validator's)")
	c.Flags().StringVar(&chainID, "chain-id", "", "name of the chain, [a-z0-9-] (default: made up)")
	c.Flags().StringVar(&out, "out", "genesis.json", "file to write, - = stdout")
	_ = c.MarkFlagRequired("validator") // it exists
	return c
}

func newGenesis(chainID string, validators, admins []string) (*consortium.Genesis, error) {
	var vs []consortium.Validator
	var keys []consortium.PublicKey
	names := map[string]bool{}
	for _, text := range validators {
		name, keyText, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fail(exitUsage, "--validator %s: want NAME=KEY", text)
		}
		key, err := parseKey(keyText)
		if err != nil {
			return nil, fail(exitUsage, "--validator %s: %w", name, err)
		}
		if names[name] {
			return nil, fail(exitUsage, "--validator %s: the name is given twice", name)
		}
		names[name] = true
		vs = append(vs, consortium.Validator{Key: key, Name: name})
		keys = append(keys, key)
	}
	if len(admins) > 0 {
		keys = nil
	}
	for _, text := range admins {
		key, err := parseKey(text)
		if err != nil {
			return nil, fail(exitUsage, "--admin: %w", err)
		}
		keys = append(keys, key)
	}
	return consortium.NewGenesis(chainID, vs, keys, consortium.DefaultParams(), time.Now())
}

// parseKey reads a public key, or the peer id that is made of it.
func parseKey(text string) (consortium.PublicKey, error) {
	id, err := peer.Decode(text)
	if err != nil {
		return consortium.ParsePublicKey(text)
	}
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return consortium.PublicKey{}, fmt.Errorf("peer id %s holds no key: %w", text, err)
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != len(consortium.PublicKey{}) {
		return consortium.PublicKey{}, fmt.Errorf("peer id %s is not of an Ed25519 key", text)
	}
	return consortium.PublicKey(raw), nil
}

// createFile writes a file that must not exist.
func createFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already: choose another name, or remove it first [PLY-007]", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return nil
}
