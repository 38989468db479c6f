package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

func chainCommand(g *globals) *cobra.Command {
	status := func(c *cobra.Command, _ []string) error { return ask(c.Context(), g, "chain", viewChain) }
	c := &cobra.Command{
		Use: "chain", Short: "The chain that this node holds", Args: cobra.NoArgs, RunE: status,
		Example: "parley chain status\nparley chain blocks --limit 5\nparley chain block 7 --records",
	}
	c.AddCommand(
		&cobra.Command{Use: "status", Short: "The chain in short", Args: cobra.NoArgs, RunE: status, Example: "parley chain status"},
		&cobra.Command{Use: "head", Short: "The newest block", Args: cobra.NoArgs, Example: "parley chain head -o template='{{.height}}'",
			RunE: func(c *cobra.Command, _ []string) error {
				return ask(c.Context(), g, "chain/head", func(h parley.StatusHead) *table {
					return facts("height", strconv.FormatUint(h.Height, 10), "hash", h.Hash.String(), "time", fmt.Sprintf("%s (%s ago)", when(h.Time), since(h.Time)))
				})
			}},
		&cobra.Command{Use: "heads", Short: "Each peer's head beside ours", Args: cobra.NoArgs, Example: "parley chain heads --watch",
			RunE: func(c *cobra.Command, _ []string) error { return ask(c.Context(), g, "chain/heads", viewHeads) }},
		validatorsCommand(g),
		blocksCommand(g), blockCommand(g), dumpCommand(g), checkCommand(g), genesisCommand(g), fraudCommand(g),
		proveCommand(g, "proof"), verifyProofCommand(g, "verify-proof"), verifyCommand(g),
	)
	return c
}

func viewChain(c parley.Chain) *table {
	embedded := c.Validators.N > 0 // else the rules, and the records, are another program's
	holds := count(c.BlockCount, "block")
	if embedded {
		holds += ", " + count(c.RecordCount, "record")
	}
	t := facts(
		"chain", c.ChainID, "genesis", c.GenesisHash.String(),
		"head", fmt.Sprintf("%d  %s", c.Height, c.Head.Hash), "time", fmt.Sprintf("%s (%s ago)", when(c.Head.Time), since(c.Head.Time)),
		"holds", holds, "role", c.Role,
	)
	if embedded {
		t.add("validators", validatorsText(&c.Validators))
	}
	t.add("sync", c.Sync.State)
	return t
}

func viewHeads(l list[parley.PeerHead]) *table {
	t := &table{columns: []column{{name: "NAME"}, {name: "CLAIMED", right: true}, {name: "PROVED", right: true}, {name: "BEHIND", right: true},
		{name: "HASH"}, {name: "PEER"}, {name: "PEER ID", wide: true}}, empty: "no peers are connected: see parley peers static"}
	for _, h := range l.Items {
		hash := ""
		if h.Claimed != nil {
			hash = head(h.Claimed.Hash.String())
		}
		t.add(h.Name, heightOf(h.Claimed), heightOf(h.Validated), strconv.FormatInt(h.TrailsBy, 10), hash, short(h.Peer.String()), h.Peer.String())
	}
	return t
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func blocksCommand(g *globals) *cobra.Command {
	var from, order string
	c := &cobra.Command{
		Use: "blocks", Short: "Blocks, newest first", Args: cobra.NoArgs, Example: "parley chain blocks --limit 5\nparley chain blocks --from 0 --order asc",
		RunE: func(c *cobra.Command, _ []string) error {
			limit := g.limitText()
			if limit == "" {
				limit = "20"
			}
			return ask(c.Context(), g, query("chain/blocks", "from", from, "order", order, "limit", limit), viewBlocks)
		},
	}
	c.Flags().StringVar(&from, "from", "", "height to begin with")
	c.Flags().StringVar(&order, "order", "desc", "desc (newest first) or asc")
	return c
}

func viewBlocks(l list[parley.Block]) *table {
	t := &table{columns: []column{{name: "HEIGHT", right: true}, {name: "HASH"}, {name: "TIME"}, {name: "RECORDS", right: true}, {name: "SIZE", right: true},
		{name: "PROPOSER"}, {name: "FULL HASH", wide: true}}}
	for _, b := range l.Items {
		proposer := ""
		if b.Proposer != nil {
			proposer = b.Proposer.Name
		}
		t.add(strconv.FormatUint(b.Height, 10), head(b.Hash.String()), when(b.Time), strconv.Itoa(b.RecordCount), size(b.SizeBytes), proposer, b.Hash.String())
	}
	return t
}

func blockCommand(g *globals) *cobra.Command {
	var records bool
	c := &cobra.Command{
		Use: "block HEIGHT|HASH", Short: "One block", Args: cobra.ExactArgs(1), Example: "parley chain block 7\nparley chain block 7 --records",
		RunE: func(c *cobra.Command, args []string) error {
			path := "chain/blocks/" + url.PathEscape(args[0])
			if records {
				return ask(c.Context(), g, path+"/records", func(l list[parley.Record]) *table {
					t := viewRecords(l)
					t.empty = "the block holds no records"
					return t
				})
			}
			return ask(c.Context(), g, path, viewBlock)
		},
	}
	c.Flags().BoolVar(&records, "records", false, "its records instead")
	return c
}

func viewBlock(b parley.Block) *table {
	t := facts("height", strconv.FormatUint(b.Height, 10), "hash", b.Hash.String(), "previous", b.PrevHash.String(),
		"time", when(b.Time), "records", strconv.Itoa(b.RecordCount), "size", size(b.SizeBytes), "root", b.Root.String(), "epoch", strconv.FormatUint(b.Epoch, 10))
	if b.Proposer != nil {
		t.add("proposer", fmt.Sprintf("%d %s %s", b.Proposer.Validator, b.Proposer.Name, b.Proposer.Peer))
	}
	if b.Certificate != nil {
		t.add("signed by", strings.Trim(fmt.Sprint(b.Certificate.Signers), "[]")+fmt.Sprintf(", %d needed", b.Certificate.Quorum))
	}
	return t
}

func dumpCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "dump", Short: "The whole chain as JSON", Args: cobra.NoArgs, Example: "parley chain dump > chain.json",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := g.client()
			if err != nil {
				return err
			}
			res, err := cl.request(c.Context(), http.MethodGet, query("/api/blockchain/dump", "limit", g.limitText()), "", nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if g.output == "jsonl" {
				return dumpLines(g.out, res.Body)
			}
			if _, err := io.Copy(g.out, res.Body); err != nil {
				return fmt.Errorf("copy the dump: %w", err)
			}
			return nil
		},
	}
}

func dumpLines(w io.Writer, r io.Reader) error {
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("read the dump: %w", err)
	}
	for d.More() {
		var block json.RawMessage
		if err := d.Decode(&block); err != nil {
			return fmt.Errorf("read the dump: %w", err)
		}
		if err := writeLine(w, block); err != nil {
			return err
		}
	}
	return nil
}
