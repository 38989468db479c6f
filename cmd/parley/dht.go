package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

const (
	queryWait  = 150 * time.Second // the node gives a lookup 60 s, and as much to what it stores
	crawlWait  = 11 * time.Minute  // a crawl 10
	maxValue   = 3840              // bytes of a value
	maxCrawled = 64 << 10          // bytes of a line
)

func dhtCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "dht", Short: "The distributed hash table, by hand",
		Long: "Every node of a network holds a part of one table: who is near which id, who provides what, and small signed values.\n" +
			"With -v a query tells each peer that it asked, over which path, and whom that one told of.",
		Example: "parley dht status\nparley dht find-node 12D3KooW… -v\nparley dht put profile profile.json\nparley dht get /parley/profile/12D3KooW…",
	}
	c.AddCommand(
		&cobra.Command{Use: "status", Short: "How the DHT stands", Args: cobra.NoArgs, Example: "parley dht status",
			RunE: func(c *cobra.Command, _ []string) error { return ask(c.Context(), g, "dht", viewDHT) }},
		&cobra.Command{Use: "table", Short: "The peers of the table, by how many leading bits they share with us", Args: cobra.NoArgs,
			Example: "parley dht table\nparley dht table -o wide",
			RunE: func(c *cobra.Command, _ []string) error {
				return ask(c.Context(), g, query("dht/table", "limit", "1000"), viewDHTTable)
			}},
		&cobra.Command{Use: "find-node ID", Short: "Look for a peer, and for those nearest to its id", Args: cobra.ExactArgs(1),
			Example: "parley dht find-node 12D3KooW… -v",
			RunE: func(c *cobra.Command, args []string) error {
				if _, err := peer.Decode(args[0]); err != nil {
					return usage(c, fmt.Errorf("%q is no peer id: want base58 such as 12D3KooW…", args[0]))
				}
				return dhtPost(c.Context(), g, "dht/find-node", map[string]any{"peer": args[0]}, "no peer answered")
			}},
		findProvidersCommand(g),
		&cobra.Command{Use: "provide CID", Short: "Tell that this node has something, again each 12 h while it runs", Args: cobra.ExactArgs(1),
			Long:    "CID names it; any other text is no error, but stands for its SHA-256, which is then told. The peers that are shown took it.",
			Example: "parley dht provide 'our snapshots'",
			RunE: func(c *cobra.Command, args []string) error {
				return dhtPost(c.Context(), g, "dht/provide", map[string]any{"key": args[0]}, "no peer took it")
			}},
		dhtGetCommand(g), dhtPutCommand(g), dhtCrawlCommand(g),
	)
	return c
}

func findProvidersCommand(g *globals) *cobra.Command {
	return &cobra.Command{Use: "find-providers CID", Short: "Look for peers that say that they have something", Args: cobra.ExactArgs(1),
		Long:    "CID names it; any other text is no error, but stands for its SHA-256, which is then told. What peers say is where to dial, and no proof.",
		Example: "parley dht find-providers 'our snapshots' --limit 5",
		RunE: func(c *cobra.Command, args []string) error {
			in := map[string]any{"key": args[0]}
			if g.limit > 0 {
				in["limit"] = g.limit
			}
			return dhtPost(c.Context(), g, "dht/find-providers", in, "nobody says to have it")
		}}
}

func dhtGetCommand(g *globals) *cobra.Command {
	var quorum int
	var out string
	c := &cobra.Command{Use: "get KEY", Short: "Look a signed value up", Args: cobra.ExactArgs(1),
		Long: "KEY is /parley/KIND/AUTHOR, where AUTHOR is a peer ID, or KIND alone for a value of the node that is asked. The value with the\n" +
			"highest sequence wins of all that the author signed. With --quorum the query ends once so many peers gave the same one,\n" +
			"and the command fails with 4 where fewer did; without, all of the nearest peers are asked.",
		Example: "parley dht get /parley/profile/12D3KooW…\nparley dht get /parley/profile/12D3KooW… --quorum 3 -v\nparley dht get profile --out profile.json",
		RunE: func(c *cobra.Command, args []string) error {
			if quorum < 0 || quorum > 20 {
				return usage(c, fmt.Errorf("--quorum %d: want 0 to 20", quorum))
			}
			return g.getValue(c.Context(), args[0], quorum, out)
		}}
	c.Flags().IntVar(&quorum, "quorum", 0, "peers that have to give the same value; 0 = as many as there are")
	c.Flags().StringVar(&out, "out", "", "write the value's bytes to this file, - for stdout")
	return c
}

func dhtPutCommand(g *globals) *cobra.Command {
	return &cobra.Command{Use: "put KEY FILE", Short: "Sign a value with the node's key and store it, again each 12 h while it runs", Args: cobra.ExactArgs(2),
		Long: "KEY is a KIND of a-z, 0-9, _ and -, or /parley/KIND/AUTHOR with the node's own peer ID. FILE holds at most 3840 bytes; - is stdin.\n" +
			"Each put has a higher sequence than the one before, and takes its place everywhere.",
		Example: "parley dht put profile profile.json\necho hello | parley dht put greeting -",
		RunE: func(c *cobra.Command, args []string) error {
			value, err := g.readMost(args[1], maxValue, "store it elsewhere, and its hash and where it is here")
			if err != nil {
				return err
			}
			in, err := json.Marshal(map[string]any{"value": value})
			if err != nil {
				return err
			}
			body, err := g.queryDHT(c.Context(), http.MethodPut, query("dht/values", "key", args[0]), in)
			if err != nil {
				return err
			}
			v, err := decode[parley.DHTValue](body)
			if err != nil {
				return err
			}
			return g.show(body, func() (*table, error) {
				return facts("key", v.Key, "author", v.Author.String(), "sequence", strconv.FormatUint(v.Seq, 10), "size", count(len(v.Value), "byte"),
					"stored by", count(v.Copies, "peer")), g.tellQuery(v.DHTQuery)
			})
		}}
}

// queryDHT sends a query and waits as long as the node may take.
func (g *globals) queryDHT(ctx context.Context, method, path string, in []byte) ([]byte, error) {
	c, err := g.client()
	if err != nil {
		return nil, err
	}
	timeout := g.timeout
	if timeout == defaultTimeout {
		timeout = queryWait
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	contentType := ""
	if in != nil {
		contentType = jsonMedia
	}
	return c.do(ctx, method, path, contentType, in)
}

// dhtPost sends a query that answers with peers.
func dhtPost(ctx context.Context, g *globals, path string, in map[string]any, empty string) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	body, err := g.queryDHT(ctx, http.MethodPost, path, b)
	if err != nil {
		return err
	}
	return g.show(body, func() (*table, error) {
		found, err := decode[parley.DHTNodes](body)
		if err != nil {
			return nil, err
		}
		if found.Hashed != "" {
			g.say("%q is no CID, so its SHA-256 stands for it: %s", in["key"], found.Hashed)
		}
		t := &table{columns: []column{{name: "PEER ID"}, {name: "ADDRESS"}, {name: "MORE", wide: true}}, empty: empty}
		for _, p := range found.Peers {
			first, more := splitFirst(p.Addresses)
			t.add(p.ID.String(), first, more)
		}
		return t, g.tellQuery(found.DHTQuery)
	})
}

func splitFirst(list []string) (first, more string) {
	if len(list) == 0 {
		return "", ""
	}
	return list[0], strings.Join(list[1:], " ")
}

// tellQuery says how a query went, with -v step by step.
func (g *globals) tellQuery(q parley.DHTQuery) error {
	if g.quiet {
		return nil
	}
	silent, enough := 0, 0
	for _, s := range q.Steps {
		switch s.Class {
		case "":
		case parley.ClassEnough:
			enough++
		default:
			silent++
		}
	}
	if g.verbose && len(q.Steps) > 0 {
		if err := viewSteps(q.Steps).print(g.err, false); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("asked %s over %s", count(len(q.Steps), "peer"), count(usedPaths(q.Steps), "path"))
	if silent > 0 {
		text += fmt.Sprintf(", %d did not answer", silent)
	}
	if enough > 0 {
		text += fmt.Sprintf(", for %d nobody waited: that was enough", enough)
	}
	g.say("%s", text)
	if q.Dense {
		g.say("the nearest peers are too near to be chance: somebody may have placed them there, so more were asked")
	}
	return nil
}

// usedPaths counts the paths that asked anybody.
func usedPaths(steps []parley.DHTStep) int {
	used := map[int]bool{}
	for _, s := range steps {
		if s.Path > 0 {
			used[s.Path] = true
		}
	}
	return len(used)
}

func viewSteps(steps []parley.DHTStep) *table {
	t := &table{columns: []column{{name: "PATH"}, {name: "ASKED"}, {name: "TOOK", right: true}, {name: "GOT", right: true}, {name: "TOLD OF", cut: true}}}
	for _, s := range steps {
		path, told := strconv.Itoa(s.Path), "no answer: "+s.Class
		if s.Path == 0 {
			path = "end" // of the nearest ones, whatever path told of them
		}
		switch s.Class {
		case parley.ClassEnough:
			told = "not waited for"
		case "":
			ids := make([]string, len(s.Told))
			for i, p := range s.Told {
				ids[i] = short(p.String())
			}
			told = strings.Join(ids, " ")
		}
		t.add(path, short(s.Asked.String()), fmt.Sprintf("%.1fms", s.MS), strconv.Itoa(s.Got), told)
	}
	return t
}

func (g *globals) getValue(ctx context.Context, key string, quorum int, out string) error {
	wanted := ""
	if quorum > 0 {
		wanted = strconv.Itoa(quorum)
	}
	body, err := g.queryDHT(ctx, http.MethodGet, query("dht/values", "key", key, "quorum", wanted), nil)
	if err != nil {
		return err
	}
	v, err := decode[parley.DHTValue](body)
	if err != nil {
		return err
	}
	switch out {
	case "":
		err = g.show(body, func() (*table, error) { return viewValue(v), g.tellQuery(v.DHTQuery) })
	case "-":
		_, err = g.out.Write(v.Value)
	default:
		if err = os.WriteFile(out, v.Value, 0o644); err == nil { //nolint:gosec // it is public
			g.say("wrote %s to %s", count(len(v.Value), "byte"), out)
		}
	}
	if err != nil {
		return err
	}
	if v.Disagreement {
		g.say("other values that the author signed came over other paths: this is the newest")
	}
	if !v.QuorumReached {
		return fail(exitCheck, "%s of this value, the quorum is %d: ask again later, or for less", plural(v.Copies, "copy", "copies"), quorum)
	}
	return nil
}

func viewValue(v parley.DHTValue) *table {
	copies := strconv.Itoa(v.Copies)
	if v.Quorum > 0 {
		copies += fmt.Sprintf(", quorum %d", v.Quorum)
	}
	t := facts("key", v.Key, "author", v.Author.String(), "sequence", strconv.FormatUint(v.Seq, 10),
		"issued", fmt.Sprintf("%s (%s ago)", when(v.IssuedAt), since(v.IssuedAt)), "copies", copies, "disagreement", yes(v.Disagreement),
		"size", count(len(v.Value), "byte"))
	if text := strings.TrimRight(string(v.Value), "\r\n"); shown(text) {
		t.add("value", text)
	} else {
		t.add("value", "more than a line of text: --out FILE writes it")
	}
	return t
}

// shown tells whether a value is a short line of text.
func shown(text string) bool {
	return len(text) <= 200 && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func viewDHT(d parley.DHT) *table {
	mode, size, alarm := d.Mode, "not known yet", "none"
	if d.Auto {
		mode += " (auto)"
	}
	if d.NetworkSize > 0 {
		size = fmt.Sprintf("about %d nodes", d.NetworkSize)
	}
	if d.RegionAlarm {
		alarm = "peers stand too near to a key: see parley events --types alarm.*"
	}
	return facts("mode", mode, "protocol", d.Protocol, "table", count(d.Peers, "peer"), "network", size,
		"kept", fmt.Sprintf("%s and %s for others", count(d.Values, "value"), count(d.Providers, "provider")),
		"published", published(d.Published), "alarm", alarm)
}

func published(n int) string {
	if n == 0 {
		return "nothing of ours"
	}
	return fmt.Sprintf("%s of ours", plural(n, "value or key", "values and keys"))
}

func viewDHTTable(l list[parley.DHTBucket]) *table {
	t := &table{columns: []column{{name: "BITS", right: true}, {name: "PEER"}, {name: "GROUP"}, {name: "SINCE", right: true}, {name: "ANSWERED", right: true},
		{name: "ADDRESS"}, {name: "PEER ID", wide: true}, {name: "MORE", wide: true}},
		empty: "the table is empty: no peer that has passed its handshake serves the DHT"}
	for _, b := range l.Items {
		for _, p := range b.Peers {
			first, more := splitFirst(p.Addresses)
			t.add(strconv.Itoa(b.Bits), short(p.ID.String()), p.Group, since(p.AddedAt), since(p.UsefulAt), first, p.ID.String(), more)
		}
	}
	return t
}

func dhtCrawlCommand(g *globals) *cobra.Command {
	return &cobra.Command{Use: "crawl", Short: "Ask each peer of the DHT for its whole table", Args: cobra.NoArgs,
		Long:    "It ends after 10 minutes or 5000 peers with what it has; -o jsonl shows each peer as it is done.",
		Example: "parley dht crawl\nparley dht crawl -o jsonl\nparley dht crawl -o csv > nodes.csv",
		RunE:    func(c *cobra.Command, _ []string) error { return g.crawl(c.Context()) }}
}

func (g *globals) crawl(ctx context.Context) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	timeout := g.timeout
	if timeout == defaultTimeout {
		timeout = crawlWait
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	res, err := c.request(ctx, http.MethodPost, "dht/crawl", "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	bar := newBar(g)
	defer bar.end()
	var l list[json.RawMessage]
	l.Items = []json.RawMessage{}
	met, good := 0, 0
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 4<<10), maxCrawled)
	for lines.Scan() {
		v, err := decode[parley.DHTCrawled](lines.Bytes())
		if err != nil {
			return err
		}
		if met++; v.OK {
			good++
		}
		if g.output == "jsonl" {
			if err := writeLine(g.out, lines.Bytes()); err != nil {
				return err
			}
			continue
		}
		l.Items = append(l.Items, bytes.Clone(lines.Bytes()))
		bar.show(int64(met), -1, fmt.Sprintf("%s met, %d answered", count(met, "peer"), good))
	}
	if err := lines.Err(); err != nil {
		return c.unreachable(ctx, err)
	}
	bar.end()
	if g.output != "jsonl" {
		l.Count = len(l.Items)
		body, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if err := g.show(body, func() (*table, error) { return viewCrawl(body) }); err != nil {
			return err
		}
	}
	g.say("%s met, %d answered, in %s", count(met, "peer"), good, time.Since(began).Round(10*time.Millisecond))
	return nil
}

func viewCrawl(body []byte) (*table, error) {
	l, err := decode[list[parley.DHTCrawled]](body)
	if err != nil {
		return nil, err
	}
	t := &table{columns: []column{{name: "PEER"}, {name: "ANSWER"}, {name: "TABLE", right: true}, {name: "TOOK", right: true}, {name: "ADDRESS"},
		{name: "PEER ID", wide: true}, {name: "ERROR", wide: true}}, empty: "no peer was met"}
	for _, p := range l.Items {
		state, neighbors := "ok", strconv.Itoa(p.Neighbors)
		if !p.OK {
			state, neighbors = p.Class, ""
		}
		first, _ := splitFirst(p.Addresses)
		t.add(short(p.ID.String()), state, neighbors, fmt.Sprintf("%.0fms", p.MS), first, p.ID.String(), p.Error)
	}
	return t, nil
}
