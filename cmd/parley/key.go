package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

func keyCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "The node's identity, and the key of a private network",
		Example: "parley key show\nparley key export --format hex --out node.hex\nparley key import node.hex",
	}
	c.AddCommand(
		&cobra.Command{Use: "generate", Short: "Make the identity before the first run", Args: cobra.NoArgs, Example: "parley key generate --data-dir node1",
			RunE: func(*cobra.Command, []string) error { return g.keyGenerate() }},
		&cobra.Command{Use: "show", Short: "Public parts of the identity", Args: cobra.NoArgs, Example: "parley key show -o template='{{.peer_id}}'",
			RunE: func(*cobra.Command, []string) error { return g.keyShow() }},
		keyImportCommand(g), keyExportCommand(g), pskCommand(g),
	)
	return c
}

// keyPath is the key file of the data directory.
func (g *globals) keyPath() (string, error) {
	cfg, err := g.load()
	if err != nil {
		return "", err
	}
	return cfg.Path(cfg.Node.KeyFile), nil
}

// loadKey reads the key file. What is wrong with it is a wrong configuration,
// as it is for run.
func (g *globals) loadKey() (crypto.PrivKey, string, error) {
	path, err := g.keyPath()
	if err != nil {
		return nil, "", err
	}
	key, err := parley.LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fail(exitNotFound, "no key in %s: make one with parley key generate, or name another --data-dir", path)
	}
	if err != nil {
		return nil, "", &parley.StartError{Code: 104, Err: err}
	}
	return key, path, nil
}

func (g *globals) keyGenerate() error {
	path, err := g.keyPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	key, err := parley.CreateKey(path)
	if errors.Is(err, parley.ErrKeyExists) {
		return fmt.Errorf("%s exists already: show it with parley key show; a new identity needs it moved away [PLY-007]", path)
	}
	if err != nil {
		return err
	}
	g.say("made %s: keep a copy where it is safe", path)
	return g.showKey(key, path)
}

func (g *globals) keyShow() error {
	key, path, err := g.loadKey()
	if err != nil {
		return err
	}
	return g.showKey(key, path)
}

func (g *globals) showKey(key crypto.PrivKey, path string) error {
	public := consortium.PublicKeyOf(parley.Ed25519Key(key))
	id, err := public.PeerID()
	if err != nil {
		return err
	}
	v := map[string]string{"peer_id": id.String(), "key": public.String(), "type": "ed25519", "file": path}
	return g.showValue(v, func() *table {
		return facts("peer id", id.String(), "public key", public.String(), "file", path)
	})
}

func keyImportCommand(g *globals) *cobra.Command {
	var format string
	var replace bool
	c := &cobra.Command{
		Use: "import FILE|-", Short: "Take an identity from elsewhere", Args: cobra.ExactArgs(1),
		Long:    "Never run one identity on two machines.",
		Example: "parley key import node.pem\nparley key import --format teranode key.txt --replace",
		RunE:    func(_ *cobra.Command, args []string) error { return g.keyImport(args[0], format, replace) },
	}
	c.Flags().StringVar(&format, "format", "", "pem, hex, libp2p or teranode (default: by its form)")
	c.Flags().BoolVar(&replace, "replace", false, "replace the identity that is there")
	return c
}

func (g *globals) keyImport(name, format string, replace bool) error {
	b, err := g.readInput(name, maxRequest)
	if err != nil {
		return err
	}
	key, err := parley.ImportKey(bytes.TrimSpace(b), format)
	if err != nil {
		return fmt.Errorf("import %s: %w: want a key as parley key export writes it, or name its form with --format", name, err)
	}
	path, err := g.keyPath()
	if err != nil {
		return err
	}
	old := "none"
	if k, err := parley.LoadKey(path); k != nil {
		old = idOf(k)
	} else if !errors.Is(err, fs.ErrNotExist) {
		old = "unreadable"
	}
	if old != "none" && !replace {
		return fmt.Errorf("%s holds an identity already, %s: replace it with --replace [PLY-007]", path, old)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := parley.SaveKey(path, key, replace); err != nil {
		return err
	}
	g.say("old peer id: %s", old)
	g.say("new peer id: %s", idOf(key))
	return g.showKey(key, path)
}

func idOf(key crypto.PrivKey) string {
	id, err := consortium.PublicKeyOf(parley.Ed25519Key(key)).PeerID()
	if err != nil {
		return "unreadable"
	}
	return id.String()
}

func keyExportCommand(g *globals) *cobra.Command {
	var format, out string
	var stdout bool
	c := &cobra.Command{
		Use: "export", Short: "Write the secret identity to a new file", Args: cobra.NoArgs,
		Example: "parley key export --out node.pem\nparley key export --format hex --stdout",
		RunE:    func(*cobra.Command, []string) error { return g.keyExport(format, out, stdout) },
	}
	c.Flags().StringVar(&format, "format", parley.FormatPEM, "pem, hex, libp2p or teranode")
	c.Flags().StringVar(&out, "out", "", "a new file, mode 0600")
	c.Flags().BoolVar(&stdout, "stdout", false, "to stdout")
	c.MarkFlagsMutuallyExclusive("out", "stdout")
	c.MarkFlagsOneRequired("out", "stdout")
	return c
}

func (g *globals) keyExport(format, out string, stdout bool) error {
	key, _, err := g.loadKey()
	if err != nil {
		return err
	}
	b, err := parley.ExportKey(key, format)
	if err != nil {
		return fail(exitUsage, "%w", err)
	}
	if stdout {
		_, err = g.out.Write(b)
		return err
	}
	if err := createFile(out, b, 0o600); err != nil {
		return err
	}
	g.say("wrote %s: whoever has it is this node", out)
	return nil
}
