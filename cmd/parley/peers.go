package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
)

func peersCommand(g *globals) *cobra.Command {
	var f peersFlags
	list := func(c *cobra.Command, _ []string) error { return g.listPeers(c, f) }
	c := &cobra.Command{
		Use: "peers", Short: "Who this node is connected to, and changes of that", Args: cobra.NoArgs, RunE: list,
		Example: "parley peers\nparley peers list -l 4\nparley peers show 12D3KooW…\nparley peers add node4:8080\nparley peers history\nparley peers watch",
	}
	listing := &cobra.Command{Use: "list", Short: "The connected peers", Args: cobra.NoArgs, RunE: list,
		Long: "What PEER shows of an id is enough for the other commands; -o wide has the whole id, and all the rest.\n" +
			"SLOT is what a connection is for: outbound = a peer that is kept, or that you connected; block_only = kept for blocks alone;\n" +
			"feeler = only asked or looked at, and left soon; static = kept by name, by trust or as a member; inbound = it dialled us.\n" +
			"Of --state, known has also those that are not connected, static those that are kept, banned those that are refused.\n" +
			"With -l the table is as detailed as you like, and ends in counts: 0 = the counts alone, 1 = a row for each peer, 2 = where each is and\n" +
			"who told of it, 3 = what each runs, 4 = all of that. A * marks trusted peers. CLAIMS is the height that a peer says, PROVED the one that it has shown.",
		Example: "parley peers list -o wide\nparley peers list --state known --sort name\nparley peers list -l 4\nparley peers list -l 1 --watch"}
	for _, c := range []*cobra.Command{c, listing} {
		c.Flags().IntVarP(&f.level, "level", "l", noLevel, "how much detail, 0 to 4, with counts")
		c.Flags().StringVar(&f.state, "state", "connected", strings.Join(peerStates, ", "))
		c.Flags().StringVar(&f.direction, "direction", "", "inbound or outbound")
		c.Flags().StringVar(&f.source, "source", "", "static, bootstrap, dns, dht, pex, mdns, inbound, operator, anchor")
		c.Flags().StringVar(&f.match, "match", "", "part of a peer ID, name, address or agent")
		c.Flags().StringVar(&f.sort, "sort", "", strings.Join(peerOrders, ", ")+" of all; else a column, of those shown")
		c.Flags().Lookup("level").DefValue = ""
	}
	c.AddCommand(
		listing,
		&cobra.Command{Use: "show PEER", Short: "All about one peer; with -v also every address of a failed dial", Args: cobra.ExactArgs(1), Long: whoHelp,
			Example: "parley peers show node5\nparley peers show …9E7rKw6Q\nparley peers show 12D3KooW… -v",
			RunE: func(c *cobra.Command, args []string) error {
				if err := notEmpty(c, "PEER", args[0], wantPeer); err != nil {
					return err
				}
				return ask(c.Context(), g, "peers/"+url.PathEscape(args[0]), g.viewPeer)
			}},
		&cobra.Command{Use: "count", Short: "How many peers are connected", Args: cobra.NoArgs, Example: "parley peers count",
			RunE: func(c *cobra.Command, _ []string) error {
				return ask(c.Context(), g, "peers/count", func(n parley.PeerCount) *table {
					return facts("connected", strconv.Itoa(n.Connected), "inbound", strconv.Itoa(n.Inbound), "outbound", strconv.Itoa(n.Outbound),
						"known", strconv.Itoa(n.Known), "static", fmt.Sprintf("%d of %d", n.Static.Connected, n.Static.Configured))
				})
			}},
		&cobra.Command{Use: "static", Short: "The peers that are kept for ever, and how trying goes", Args: cobra.NoArgs, Example: "parley peers static",
			RunE: func(c *cobra.Command, _ []string) error { return ask(c.Context(), g, "static-peers", viewStatic) }},
		&cobra.Command{Use: "watch", Short: "What happens with peers, as it happens", Args: cobra.NoArgs, Example: "parley peers watch",
			RunE: func(c *cobra.Command, _ []string) error {
				return g.stream(c.Context(), "peer.*,static_peer.*", 0)
			}},
	)
	c.AddCommand(handCommands(g)...)
	return c
}

// peersFlags are those of a list of peers.
type peersFlags struct {
	level                                 int
	state, direction, source, match, sort string
}

var (
	peerStates     = []string{"connected", "known", "static", "banned"}
	peerDirections = []string{"inbound", "outbound"}
	peerOrders     = []string{"name", "latency", "connected_at", "height", "score"}
)

// narrowed reports whether peers of the state are left out.
func (f peersFlags) narrowed() bool { return f.direction != "" || f.source != "" || f.match != "" }

// oneOf refuses a flag that is none of its values.
func oneOf(c *cobra.Command, flag, value string, values []string) error {
	if value == "" && !c.Flags().Changed(flag) || slices.Contains(values, value) {
		return nil
	}
	return usage(c, fmt.Errorf("--%s %q: want %s", flag, value, strings.Join(values, ", ")))
}

const noLevel = -1

func (g *globals) listPeers(c *cobra.Command, f peersFlags) error {
	if f.level != noLevel && (f.level < 0 || f.level > maxLevel) {
		return usage(c, fmt.Errorf("-l %d: want 0 to %d", f.level, maxLevel))
	}
	if err := errors.Join(oneOf(c, "state", f.state, peerStates), oneOf(c, "direction", f.direction, peerDirections)); err != nil {
		return err
	}
	if !slices.Contains(peerOrders, f.sort) { // it is a column, of which the node knows nothing
		g.arrange.sort, f.sort = f.sort, ""
	}
	limit := g.limitText()
	if limit == "" && f.level != noLevel {
		limit = "1000" // the counts are to be of all
	}
	path := query("peers", "limit", limit, "state", f.state, "direction", f.direction, "source", f.source, "q", f.match, "sort", f.sort)
	view := func(l list[parley.Peer]) *table { return viewPeers(l, f) }
	if g.output != "table" && g.output != "wide" {
		return ask(c.Context(), g, path, view)
	}
	cl, err := g.client()
	if err != nil {
		return err
	}
	return g.repeat(c.Context(), func() error {
		ctx, cancel := context.WithTimeout(c.Context(), g.timeout)
		defer cancel()
		l, err := fetch[list[parley.Peer]](ctx, cl, path)
		if err != nil {
			return err
		}
		if f.level != noLevel {
			return g.netinfo(l, f.level)
		}
		n, err := fetch[parley.PeerCount](ctx, cl, "peers/count")
		if err != nil {
			return err
		}
		t := view(l)
		if _, err := g.arrange.apply(t); err != nil {
			return err
		}
		if len(t.rows) == 0 {
			g.say("%s", t.empty)
		} else if err := t.print(g.out, g.output == "wide"); err != nil {
			return err
		}
		g.say("%s", footOf(l, n, f))
		return nil
	})
}

// fetch reads the answer of a GET.
func fetch[T any](ctx context.Context, c *client, path string) (v T, err error) {
	body, err := c.get(ctx, path)
	if err != nil {
		return v, err
	}
	return decode[T](body)
}

// footOf sums the peers of a node up, below a list of them.
func footOf(l list[parley.Peer], n parley.PeerCount, f peersFlags) string {
	text := fmt.Sprintf("%d connected: %d in, %d out; static %d of %d; %d known", n.Connected, n.Inbound, n.Outbound, n.Static.Connected, n.Static.Configured, n.Known)
	if f.state == peerStates[0] && n.Known > n.Connected {
		text += " (--state known)"
	}
	switch {
	case l.NextCursor != "":
		text = fmt.Sprintf("the first %d; --limit shows up to 1000; ", len(l.Items)) + text
	case f.narrowed():
		text = count(len(l.Items), "row") + "; " + text
	}
	return text
}

func (g *globals) limitText() string {
	if g.limit == 0 {
		return ""
	}
	return strconv.Itoa(g.limit)
}

func viewPeers(l list[parley.Peer], f peersFlags) *table {
	t := &table{columns: []column{{name: "NAME", most: nameWidth}, {name: "PEER"}, {name: "DIR"}, {name: "SLOT"}, {name: "STATE"}, {name: "HEIGHT", right: true},
		{name: "PING", right: true}, {name: "UP", right: true}, {name: "VIA"}, {name: "ADDRESS"},
		{name: "PEER ID", wide: true}, {name: "ADDR", wide: true}, {name: "SOURCE", wide: true}, {name: "AGENT", wide: true},
		{name: "PROVED", wide: true, right: true}, {name: "SCORE", wide: true, right: true}, {name: "TRUSTED", wide: true}, {name: "IN", wide: true, right: true}, {name: "OUT", wide: true, right: true}},
		empty: "no peers are connected: see parley peers static"}
	switch {
	case f.narrowed():
		t.empty = "no such peers are there"
	case f.state == "known":
		t.empty = "no peers are known: parley peers add HOST:PORT, or PEERS"
	case f.state == "static":
		t.empty = "no peers are kept: parley peers add HOST:PORT, or PEERS"
	case f.state == "banned":
		t.empty = "no peers are refused"
	}
	for _, p := range l.Items {
		state := "ready"
		switch {
		case p.State != "connected":
			state = p.State
		case !p.Ready:
			state = "greeting"
		}
		t.add(p.Name, short(p.ID.String()), direction(p.Direction), p.Slot, state, heightOf(p.Claimed), ping(p), since(p.ConnectedAt), p.Transport, p.Address,
			p.ID.String(), p.Addr, p.Source, p.Agent, heightOf(p.Validated), strconv.Itoa(p.Score), yes(p.Trusted), size(p.BytesIn), size(p.BytesOut))
	}
	return t
}

func heightOf(h *chain.Head) string {
	if h == nil {
		return ""
	}
	return strconv.FormatUint(h.Height, 10)
}

func (g *globals) viewPeer(p parley.PeerDetail) *table {
	proved := "none yet"
	if p.Validated != nil {
		proved = fmt.Sprintf("%d  %s", p.Validated.Height, head(p.Validated.Hash.String()))
	}
	claimed := "none"
	if p.Claimed != nil {
		claimed = fmt.Sprintf("%d  %s", p.Claimed.Height, head(p.Claimed.Hash.String()))
	}
	t := facts("peer id", p.ID.String(), "state", p.State, "name", p.Name, "agent", p.Agent, "address", p.Address, "addr", p.Addr)
	if p.State != "connected" && p.Source != "" {
		t.add("source", p.Source)
	}
	if p.Group != "" {
		t.add("group", p.Group)
	}
	if p.State == "connected" {
		streams := 0
		for _, s := range p.Streams {
			streams += s.In + s.Out
		}
		t.add("connection", fmt.Sprintf("%s, %s, %s, %s slot, from %s", p.Direction, p.Transport, p.Security, p.Slot, p.Source))
		t.add("ready", strconv.FormatBool(p.Ready))
		t.add("since", fmt.Sprintf("%s (%s)", when(p.ConnectedAt), since(p.ConnectedAt)))
		t.add("ping", ping(p.Peer))
		t.add("traffic", fmt.Sprintf("%s in, %s out, %s", size(p.BytesIn), size(p.BytesOut), count(streams, "open stream")))
		t.add("services", strings.Join(p.Services, ", "))
		t.add("claims", claimed)
		t.add("proved", proved)
		t.add("mesh", strings.Join(p.Mesh, ", "))
	}
	t.add("kept", fmt.Sprintf("static %s, trusted %s", yes(p.Static), yes(p.Trusted)))
	t.add("standing", fmt.Sprintf("%s, score %d, %d points, gossip score %.1f", p.Standing, p.Score, p.Points, p.GossipScore))
	for _, r := range p.Reputation.Reasons {
		t.add("charged", fmt.Sprintf("%s  %d points for %s: %s", when(r.At), r.Points, r.Reason, r.Detail))
	}
	if s := p.Supervisor; s != nil && s.State != "connected" {
		next := "when something changes"
		if s.NextAt != nil {
			next = when(*s.NextAt)
		}
		t.add("trying", fmt.Sprintf("%s, %s, next %s", s.State, plural(s.Tries, "failed attempt", "failed attempts"), next))
		t.add("last error", s.Class+": "+s.LastError)
		if g.verbose && s.WholeError != "" {
			t.add("in full", s.WholeError)
		}
		if len(s.Resting) > 0 {
			t.add("resting", strings.Join(s.Resting, ", "))
		}
	}
	return t
}

const (
	itemWidth  = 40 // columns of a static peer's text: its id is beside it, and -o wide has the whole
	tightWidth = 22 // of it on a narrow terminal
)

// tightItem is an item without what its row has beside it.
func tightItem(text string) string { return ansi.Truncate(shortIDs(text), tightWidth, "…") }

// clock is a time without its day.
func clock(text string) string {
	_, of, found := strings.Cut(text, "T")
	if !found {
		return text
	}
	return of
}

func viewStatic(l list[parley.StaticPeer]) *table {
	t := &table{columns: []column{{name: "ITEM", most: itemWidth, tight: tightItem}, {name: "STATE"}, {name: "ORIGIN"}, {name: "TRIES", right: true}, {name: "PEER"}, {name: "NEXT", tight: clock}, {name: "CLASS", under: true},
		{name: "LAST ERROR", under: true}, {name: "PEER ID", wide: true}, {name: "RESTING", wide: true}}, empty: "no peers are kept: parley peers add HOST:PORT, or PEERS"}
	for _, p := range l.Items {
		next := ""
		if p.NextAt != nil {
			next = when(*p.NextAt)
		}
		t.add(p.Item, p.State, p.Origin, strconv.Itoa(p.Tries), short(p.ID.String()), next, p.Class, p.LastError, p.ID.String(), strings.Join(p.Resting, " "))
	}
	return t
}
