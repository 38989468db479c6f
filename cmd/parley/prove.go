package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// proveCommand is tx prove, and chain proof.
func proveCommand(g *globals, name string) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: name + " ID", Short: "Write a file that proves a record to somebody without a node", Args: cobra.ExactArgs(1),
		Long: "The file holds the record, the block that it stands in, who signed that block, and each change of the validators since the genesis.\n" +
			"Whoever knows the genesis hash checks it offline: parley tx verify FILE --genesis HASH.",
		Example: "parley tx prove 3a21… --out proof.json\nparley tx prove 3a21… > proof.json",
		RunE: func(c *cobra.Command, args []string) error {
			return g.prove(c.Context(), args[0], out)
		},
	}
	c.Flags().StringVar(&out, "out", "-", "file to write, - = stdout")
	return c
}

func (g *globals) prove(ctx context.Context, id, out string) error {
	if err := checkID(id); err != nil {
		return err
	}
	cl, err := g.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := cl.get(ctx, "records/"+id+"/proof")
	if err != nil {
		return err
	}
	p, err := consortium.ParseProof(body)
	if err != nil {
		return fmt.Errorf("read the node's answer: %w: is --node a parley node of this version?", err)
	}
	genesis, err := consortium.DecodeGenesis(p.Genesis)
	if err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	if _, err := consortium.VerifyProof(p, genesis.Hash()); err != nil { // nobody should be handed what does not hold
		return &codeError{exitCheck, fmt.Errorf("the node's proof of record %s does not hold: %w: check its store with parley chain check", id, err)}
	}
	if body, err = p.Encode(); err != nil {
		return err
	}
	if out == "-" {
		return writeLine(g.out, body)
	}
	if err := createFile(out, append(body, '\n'), 0o644); err != nil {
		return err
	}
	g.say("wrote %s: anybody checks it with: parley tx verify %s --genesis %s", out, out, genesis.Hash())
	return nil
}

// verifyProofCommand is tx verify, and chain verify-proof.
func verifyProofCommand(g *globals, name string) *cobra.Command {
	var genesis string
	c := &cobra.Command{
		Use: name + " FILE|-", Short: "Check a proof by the genesis hash alone; exit 4: it does not hold", Args: cobra.ExactArgs(1),
		Long:    "It asks no node. The genesis hash names the chain: take it from somebody that you trust, not from the file.",
		Example: "parley tx verify proof.json --genesis 93ff…",
		RunE: func(c *cobra.Command, args []string) error {
			return g.verifyProof(c, args[0], genesis)
		},
	}
	c.Flags().StringVar(&genesis, "genesis", "", "hash of the chain's genesis, 64 hex digits")
	return c
}

func (g *globals) verifyProof(c *cobra.Command, file, genesis string) error {
	hash, err := parseGenesisHash(c, genesis)
	if err != nil {
		return err
	}
	b, err := g.readFile(file, consortium.MaxProof, "a proof")
	if err != nil {
		return err
	}
	p, err := consortium.ParseProof(b)
	if err != nil {
		return &codeError{exitCheck, fmt.Errorf("%s is no proof: %w [PLY-003]", file, err)}
	}
	proven, err := consortium.VerifyProof(p, hash)
	if err != nil {
		return &codeError{exitCheck, fmt.Errorf("%s proves nothing: %w [PLY-003]", file, err)}
	}
	return g.showValue(viewProven(proven), func() *table { return provenTable(proven) })
}

// parseGenesisHash reads --genesis, without which nothing can be proven.
func parseGenesisHash(c *cobra.Command, text string) (chain.Hash, error) {
	if text == "" {
		return chain.Hash{}, usage(c, errors.New("--genesis is missing: the genesis hash is all that a proof rests on; somebody with a node of the chain gets it by: parley chain status -o template='{{.genesis_hash}}'"))
	}
	hash, err := chain.ParseHash(strings.TrimPrefix(text, "sha256:"))
	if err != nil {
		return chain.Hash{}, usage(c, fmt.Errorf("--genesis: %w", err))
	}
	return hash, nil
}

// readFile reads a file of at most most bytes, or stdin for "-".
func (g *globals) readFile(name string, most int, what string) ([]byte, error) {
	if name != "-" {
		info, err := os.Stat(name)
		if err == nil && info.Size() > int64(most) {
			return nil, fail(exitCheck, "%s has %d bytes, %s at most %d [PLY-008]", name, info.Size(), what, most)
		}
	}
	return g.readInput(name, most)
}

// provenView is what tx verify prints as JSON.
type provenView struct {
	Holds     bool           `json:"holds"`
	Genesis   chain.Hash     `json:"genesis_hash"`
	ChainID   string         `json:"chain_id"`
	ID        chain.Hash     `json:"id"`
	Subject   string         `json:"subject"`
	MediaType string         `json:"media_type"`
	Body      []byte         `json:"body_base64"`
	Author    string         `json:"author"`
	Height    uint64         `json:"height"`
	BlockHash chain.Hash     `json:"block_hash"`
	Index     *int           `json:"index,omitempty"` // in the block, where the proof tells it
	Subtree   int            `json:"subtree"`
	InSubtree int            `json:"index_in_subtree"`
	Time      string         `json:"time"`
	Epoch     uint64         `json:"epoch"`
	Quorum    int            `json:"quorum"`
	N         int            `json:"validators"`
	Signers   []provenSigner `json:"signers"`
}

type provenSigner struct {
	ID   uint64               `json:"id"`
	Name string               `json:"name"`
	Key  consortium.PublicKey `json:"key"`
}

func viewProven(p *consortium.Proven) provenView {
	set := p.Config.Set()
	v := provenView{
		Holds: true, Genesis: p.Genesis.Hash(), ChainID: p.Genesis.ChainID, ID: p.ID, Subject: p.Record.Subject, MediaType: p.Record.MediaType,
		Body: p.Record.Body, Author: strings.TrimPrefix(p.Record.Author.String(), "ed25519:"), Height: p.Header.Height, BlockHash: p.Hash,
		Subtree: p.Subtree, InSubtree: p.Index, Time: when(p.Time()), Epoch: p.Config.Epoch, Quorum: set.Quorum(), N: set.Len(),
	}
	if at, ok := p.Position(); ok {
		v.Index = &at
	}
	for _, s := range p.Signers {
		v.Signers = append(v.Signers, provenSigner{s.ID, s.Name, s.Key})
	}
	return v
}

// provenBody is the body itself where a line holds it, for it is what is proven.
func provenBody(r *consortium.Record) string {
	var b bytes.Buffer
	if r.MediaType == jsonMedia && len(r.Body) <= 200 && json.Compact(&b, r.Body) == nil {
		return b.String()
	}
	return fmt.Sprintf("%s of %s; parley tx verify -o json has it", size(len(r.Body)), r.MediaType)
}

func provenTable(p *consortium.Proven) *table {
	set := p.Config.Set()
	place := fmt.Sprintf("number %d of subtree %d", p.Index, p.Subtree)
	if at, ok := p.Position(); ok {
		place = fmt.Sprintf("number %d of %d", at, p.Header.Records)
	}
	t := facts(
		"proof", "holds: this record is in the chain for good",
		"chain", p.Genesis.ChainID+", genesis "+p.Genesis.Hash().String(),
		"record", p.ID.String(),
		"subject", p.Record.Subject,
		"body", provenBody(p.Record),
		"signed by", p.Record.Author.String(),
		"block", fmt.Sprintf("%d  %s", p.Header.Height, p.Hash),
		"place", place+", counted from 0",
		"time", when(p.Time())+", by the proposer's clock",
		"certified by", fmt.Sprintf("%d of %d validators of epoch %d, %d needed", len(p.Signers), set.Len(), p.Config.Epoch, set.Quorum()),
	)
	for _, s := range p.Signers {
		t.add("validator "+strconv.FormatUint(s.ID, 10), strings.TrimSpace(s.Name+" "+s.Key.String()))
	}
	return t
}
