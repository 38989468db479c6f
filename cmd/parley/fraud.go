package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

func fraudCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "fraud A B", Short: "Name who signed two blocks of one height; exit 4 when nobody did", Args: cobra.ExactArgs(2),
		Long: "A and B are proof files (parley tx prove) or blocks (parley chain block HEIGHT --json), each from another node.\n" +
			"Judged is by the validators that the blocks themselves name, of that height and not of now. A proof file brings them with it;\n" +
			"those of two block files are asked of the node: the present ones, or where they have changed since, those of a proof of its own\n" +
			"block of that height.",
		Example: "parley chain block 812 --json --node http://node1:8080 > a.json\nparley chain block 812 --json --node http://node2:8080 > b.json\nparley chain fraud a.json b.json",
		RunE: func(c *cobra.Command, args []string) error {
			return g.fraud(c.Context(), args[0], args[1])
		},
	}
}

// sealedFile is a block out of a file; its set may have to be found elsewhere.
type sealedFile struct {
	name   string
	sealed consortium.Sealed
	config *consortium.Config // of a proof file
}

func (g *globals) fraud(ctx context.Context, nameA, nameB string) error {
	a, err := g.readSealed(nameA)
	if err != nil {
		return err
	}
	b, err := g.readSealed(nameB)
	if err != nil {
		return err
	}
	for _, pair := range [][2]*sealedFile{{a, b}, {b, a}} {
		if err := g.findSet(ctx, pair[0], pair[1]); err != nil {
			return err
		}
	}
	keys, err := consortium.Fraud(a.sealed, b.sealed)
	switch {
	case errors.Is(err, consortium.ErrNoFraud):
		return &codeError{exitCheck, err}
	case err != nil:
		return &codeError{exitCheck, fmt.Errorf("these blocks prove nothing: %w", err)}
	}
	return g.showFraud(a, b, keys)
}

// readSealed reads a header with its certificate out of a proof or a block.
func (g *globals) readSealed(name string) (*sealedFile, error) {
	raw, err := g.readFile(name, consortium.MaxProof, "a proof")
	if err != nil {
		return nil, err
	}
	f := &sealedFile{name: name}
	p, notProof := consortium.ParseProof(raw)
	if notProof == nil {
		genesis, err := consortium.DecodeGenesis(p.Genesis)
		if err != nil {
			return nil, &codeError{exitCheck, fmt.Errorf("%s: %w", name, err)}
		}
		proven, err := consortium.VerifyProof(p, genesis.Hash())
		if err != nil {
			return nil, &codeError{exitCheck, fmt.Errorf("%s proves nothing: %w", name, err)}
		}
		f.config, f.sealed.Set = proven.Config, proven.Config.Set()
		return f, f.decode(p.Header, p.Certificate)
	}
	var block parley.Block
	if json.Unmarshal(raw, &block) != nil || block.Raw.Certificate == "" {
		return nil, fail(exitUsage, "%s is neither a proof (%w) nor a block: want what parley tx prove or parley chain block HEIGHT --json writes", name, notProof)
	}
	header, err := hex.DecodeString(block.Raw.Header)
	if err != nil {
		return nil, fail(exitUsage, "%s: raw header: %w", name, err)
	}
	cert, err := hex.DecodeString(block.Raw.Certificate)
	if err != nil {
		return nil, fail(exitUsage, "%s: raw certificate: %w", name, err)
	}
	return f, f.decode(header, cert)
}

func (f *sealedFile) decode(header, cert []byte) (err error) {
	if f.sealed.Header, err = consortium.DecodeHeader(header); err == nil {
		f.sealed.Certificate, err = consortium.DecodeCertificate(cert)
	}
	if err != nil {
		return &codeError{exitCheck, fmt.Errorf("%s: %w", f.name, err)}
	}
	return nil
}

// findSet finds the set that f's header names, in the other file or at a node.
func (g *globals) findSet(ctx context.Context, f, other *sealedFile) error {
	want := f.sealed.Header.Set
	if f.sealed.Set != nil {
		return nil
	}
	if s := other.sealed.Set; s != nil && s.Hash() == want {
		f.sealed.Set, f.config = s, other.config
		return nil
	}
	height, missing := f.sealed.Header.Height, "or give a proof file of a record in that block (parley tx prove), which brings them"
	config, err := g.askSet(ctx)
	if err != nil {
		return fmt.Errorf("%s: the validators %s of block %d are not known: %w; %s", f.name, want.Short(), height, err, missing)
	}
	now := config.Set().Hash()
	if now != want {
		then, err := g.askSetAt(ctx, f.sealed.Header)
		switch no, refused := errors.AsType[*apiError](err); {
		case refused && no.exit() == exitNotFound:
			return fail(exitCheck, "%s: block %d names the validators %s, the node's are %s now, and it has no block %d: ask one that has with --node, %s",
				f.name, height, want.Short(), now.Short(), height, missing)
		case err != nil:
			return fmt.Errorf("%s: block %d names the validators %s, the node's are %s now, and those of block %d: %w; %s", f.name, height, want.Short(), now.Short(), height, err, missing)
		case then.Set().Hash() != want:
			return fail(exitCheck, "%s: block %d names the validators %s, the node's were %s at that height and are %s now: ask another with --node, %s",
				f.name, height, want.Short(), then.Set().Hash().Short(), now.Short(), missing)
		}
		config = then
	}
	f.sealed.Set, f.config = config.Set(), config
	return nil
}

// askSetAt asks the node for the validators of its block of h's height, which
// it proves from the genesis that h names.
func (g *globals) askSetAt(ctx context.Context, h *consortium.Header) (*consortium.Config, error) {
	c, err := g.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	records, err := fetch[list[parley.Record]](ctx, c, fmt.Sprintf("chain/blocks/%d/records?limit=1", h.Height))
	if err != nil {
		return nil, err
	}
	if len(records.Items) == 0 {
		return nil, errors.New("the node's block has no record that could be proven")
	}
	raw, err := c.get(ctx, fmt.Sprintf("records/%s/proof", records.Items[0].ID))
	if err != nil {
		return nil, err
	}
	p, err := consortium.ParseProof(raw)
	if err != nil {
		return nil, fmt.Errorf("read the node's proof: %w", err)
	}
	proven, err := consortium.VerifyProof(p, h.Genesis)
	if err != nil {
		return nil, fmt.Errorf("the node's proof does not hold: %w", err)
	}
	if proven.Header.Height != h.Height {
		return nil, fmt.Errorf("the node proved a block of height %d, not %d", proven.Header.Height, h.Height)
	}
	return proven.Config, nil
}

// askSet asks the node for the present validators, which are believed as far
// as their hash stands in a header.
func (g *globals) askSet(ctx context.Context) (*consortium.Config, error) {
	c, err := g.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := c.get(ctx, "chain/validators")
	if err != nil {
		return nil, err
	}
	l, err := decode[list[parley.Validator]](body)
	if err != nil {
		return nil, err
	}
	config := &consortium.Config{}
	for _, v := range l.Items {
		config.Validators = append(config.Validators, consortium.Validator{ID: v.ID, Key: v.Key, Name: v.Name})
	}
	return config, nil
}

func (g *globals) showFraud(a, b *sealedFile, keys []consortium.PublicKey) error {
	type view struct {
		Fraud   bool           `json:"fraud"`
		Height  uint64         `json:"height"`
		Hashes  []chain.Hash   `json:"hashes"`
		Views   []uint64       `json:"views"`
		Signers []provenSigner `json:"signed_both"`
	}
	ha, hb := a.sealed.Header, b.sealed.Header
	v := view{Fraud: true, Height: ha.Height, Hashes: []chain.Hash{ha.Hash(), hb.Hash()}, Views: []uint64{a.sealed.Certificate.View, b.sealed.Certificate.View}, Signers: []provenSigner{}}
	t := facts("fraud", fmt.Sprintf("two certified blocks of height %d", ha.Height), "block in "+a.name, ha.Hash().String(), "block in "+b.name, hb.Hash().String())
	for _, key := range keys {
		i := slices.IndexFunc(a.config.Validators, func(v consortium.Validator) bool { return v.Key == key })
		s := provenSigner{ID: a.config.Validators[i].ID, Name: a.config.Validators[i].Name, Key: key} // who voted is in the set
		v.Signers = append(v.Signers, s)
		t.add("signed both", fmt.Sprintf("validator %d %s %s", s.ID, s.Name, s.Key))
	}
	if v.Views[0] != v.Views[1] {
		t.add("certified in", fmt.Sprintf("the views %d and %d: of those that signed both, who was deceived by the others cannot be told", v.Views[0], v.Views[1]))
	}
	if len(keys) == 0 {
		t.add("signed both", "nobody: the two sets of validators are not the same, so an earlier block was forged already")
	}
	return g.showValue(v, func() *table { return t })
}
