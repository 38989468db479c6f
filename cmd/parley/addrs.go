package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

const (
	maxImport  = 16 << 20 // bytes
	importWait = 2 * time.Minute
)

// addrsFlags select entries of the address book.
type addrsFlags struct{ table, source, group, q string }

func addrsCommand(g *globals) *cobra.Command {
	var f addrsFlags
	c := &cobra.Command{
		Use: "addrs", Short: "The address book: where peers are, who told of them, how trying went",
		Example: "parley addrs list\nparley addrs list --table tried\nparley addrs export > addrs.jsonl\nparley addrs import addrs.jsonl",
	}
	listing := &cobra.Command{
		Use: "list", Short: "The peers of the address book", Args: cobra.NoArgs,
		Long: "Peers are new until this node has reached them itself, and then tried. A * marks anchors, a ! banned peers. GROUP is the network\n" +
			"that an address counts for; SOURCE is who told first, and how many others did. SEEN, TRIED and GOOD say how long ago.",
		Example: "parley addrs list --limit 20\nparley addrs list --table tried --source dht\nparley addrs list -o wide",
		RunE: func(c *cobra.Command, _ []string) error {
			return ask(c.Context(), g, query("addrbook", "limit", g.limitText(), "table", f.table, "source", f.source, "group", f.group, "q", f.q), g.viewBook)
		},
	}
	listing.Flags().StringVar(&f.table, "table", "", "new or tried")
	listing.Flags().StringVar(&f.source, "source", "", "static, bootstrap, dns, dht, pex, mdns, inbound or operator")
	listing.Flags().StringVar(&f.group, "group", "", "such as 4:203.0")
	listing.Flags().StringVar(&f.q, "match", "", "part of a peer ID or an address")
	c.AddCommand(listing,
		&cobra.Command{
			Use: "export", Short: "Write the address book as JSON lines", Args: cobra.NoArgs,
			Long:    "The first line names the network, each other one a peer with its signed record. Standard output takes it.",
			Example: "parley addrs export > addrs.jsonl",
			RunE:    func(c *cobra.Command, _ []string) error { return g.export(c.Context(), "addrbook/export") },
		},
		&cobra.Command{
			Use: "import FILE", Short: "Add the peers of JSON lines to the address book", Args: cobra.ExactArgs(1),
			Long: "FILE is what export writes, or lines of {\"id\":…,\"addresses\":[…]}; - is stdin. A signed record is verified, and a peer is\n" +
				"new until this node has reached it itself. Lines that are not good are left out and told; a file of another network is refused.",
			Example: "parley addrs import addrs.jsonl\nssh node2 parley addrs export | parley addrs import -",
			RunE:    func(c *cobra.Command, args []string) error { return g.importBook(c.Context(), args[0]) },
		},
	)
	return c
}

func (g *globals) viewBook(l list[parley.BookEntry]) *table {
	t := &table{columns: []column{{name: "PEER"}, {name: "TABLE"}, {name: "GROUP"}, {name: "SOURCE"}, {name: "SEEN", right: true}, {name: "TRIED", right: true},
		{name: "GOOD", right: true}, {name: "FAILS"}, {name: "ADDRESS"},
		{name: "PEER ID", wide: true}, {name: "MORE", wide: true}, {name: "SIGNED", wide: true}, {name: "NOT BEFORE", wide: true}},
		empty: "the address book has no such peer"}
	for _, e := range l.Items {
		where, source, fails, rests := e.Table, "", "", ""
		if e.Anchor {
			where += "*"
		}
		if e.Banned {
			where += "!"
		}
		if n := len(e.Sources); n > 0 {
			if source = e.Sources[0].Kind; n > 1 {
				source += fmt.Sprintf(" +%d", n-1)
			}
		}
		if e.Fails > 0 {
			fails = strings.TrimSpace(fmt.Sprintf("%d %s", e.Fails, e.Class))
		}
		if e.NotBefore.After(time.Now()) {
			rests = when(e.NotBefore)
		}
		first, more := splitFirst(e.Addresses)
		t.add(short(e.ID.String()), where, e.Group, source, since(e.LastSeen), since(e.LastTry), since(e.LastGood), fails, first,
			e.ID.String(), more, yes(e.RecordSeq != ""), rests)
	}
	if l.NextCursor != "" {
		g.say("there are more peers: these are the first %d; --limit shows up to 1000", len(l.Items))
	}
	return t
}

func (g *globals) importBook(ctx context.Context, name string) error {
	body, done, err := sendLines[parley.ImportedAddresses](ctx, g, name, "addrbook/import")
	if err != nil {
		return err
	}
	for _, l := range done.Refused {
		g.sayRefused(l.Line, l.Why)
	}
	err = g.show(body, func() (*table, error) {
		return facts("taken", strconv.Itoa(done.Added), "refused", strconv.Itoa(done.RefusedLines), "in the book", strconv.Itoa(done.Known)), nil
	})
	return g.someRefused(err, len(done.Refused), done.RefusedLines, done.RefusedLines+done.Added)
}

// sendLines sends a file, or stdin, to a route that imports lists.
func sendLines[T any](ctx context.Context, g *globals, name, path string) (body []byte, done T, err error) {
	lines, err := g.readMost(name, maxImport, "import it in parts")
	if err != nil {
		return nil, done, err
	}
	c, err := g.client()
	if err != nil {
		return nil, done, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(g.timeout, importWait))
	defer cancel()
	if body, err = c.do(ctx, http.MethodPost, path, "application/x-ndjson", lines); err != nil {
		return nil, done, err
	}
	done, err = decode[T](body)
	return body, done, err
}

func (g *globals) sayRefused(line int, why string) {
	fmt.Fprintf(g.err, "line %d: refused: %s\n", line, strings.Map(printable, why))
}

// someRefused fails where lines were refused, of which told were named.
func (g *globals) someRefused(err error, told, refused, all int) error {
	if more := refused - told; more > 0 {
		fmt.Fprintf(g.err, "and %d more\n", more)
	}
	if err == nil && refused > 0 {
		err = fail(exitFailed, "%d of %d lines were refused", refused, all)
	}
	return err
}

// readMost reads a file, or stdin, of which the node takes so many bytes.
func (g *globals) readMost(name string, most int64, mend string) ([]byte, error) {
	r := g.in
	if name != "-" {
		f, err := openFile(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, fail(exitFailed, "%s has more than %d bytes, the most that is taken: %s [PLY-008]", name, most, mend)
	}
	return b, nil
}
