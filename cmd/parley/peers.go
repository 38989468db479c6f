package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
)

func peersCommand(g *globals) *cobra.Command {
	list := func(c *cobra.Command, _ []string) error {
		return ask(c.Context(), g, query("peers", "limit", g.limitText()), viewPeers)
	}
	c := &cobra.Command{
		Use: "peers", Short: "Who this node is connected to", Args: cobra.NoArgs, RunE: list,
		Example: "parley peers\nparley peers show 12D3KooW…\nparley peers watch",
	}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "The connected peers", Args: cobra.NoArgs, RunE: list, Example: "parley peers list -o wide"},
		&cobra.Command{Use: "show ID", Short: "All about one peer", Args: cobra.ExactArgs(1), Example: "parley peers show 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error {
				return ask(c.Context(), g, "peers/"+url.PathEscape(args[0]), viewPeer)
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
	return c
}

func (g *globals) limitText() string {
	if g.limit == 0 {
		return ""
	}
	return strconv.Itoa(g.limit)
}

func viewPeers(l list[parley.Peer]) *table {
	t := &table{columns: []column{{name: "NAME"}, {name: "ADDRESS"}, {name: "DIR"}, {name: "STATE"}, {name: "HEIGHT", right: true},
		{name: "PING", right: true}, {name: "UP", right: true}, {name: "VIA"}, {name: "PEER"},
		{name: "PEER ID", wide: true}, {name: "ADDR", wide: true}, {name: "SOURCE", wide: true}, {name: "AGENT", wide: true},
		{name: "POINTS", wide: true, right: true}, {name: "IN", wide: true, right: true}, {name: "OUT", wide: true, right: true}},
		empty: "no peers are connected: see parley peers static"}
	for _, p := range l.Items {
		state := "ready"
		if !p.Ready {
			state = "greeting"
		}
		ping := ""
		if p.LatencyMS > 0 {
			ping = fmt.Sprintf("%.1fms", p.LatencyMS)
		}
		dir := strings.TrimSuffix(p.Direction, "bound")
		t.add(p.Name, p.Address, dir, state, heightOf(p.Claimed), ping, since(p.ConnectedAt), p.Transport, short(p.ID.String()),
			p.ID.String(), p.Addr, p.Source, p.Agent, strconv.Itoa(p.Points), size(p.BytesIn), size(p.BytesOut))
	}
	return t
}

func heightOf(h *chain.Head) string {
	if h == nil {
		return ""
	}
	return strconv.FormatUint(h.Height, 10)
}

func viewPeer(p parley.Peer) *table {
	proved := "none yet"
	if p.Validated != nil {
		proved = fmt.Sprintf("%d  %s", p.Validated.Height, head(p.Validated.Hash.String()))
	}
	claimed := "none"
	if p.Claimed != nil {
		claimed = fmt.Sprintf("%d  %s", p.Claimed.Height, head(p.Claimed.Hash.String()))
	}
	return facts(
		"peer id", p.ID.String(), "name", p.Name, "agent", p.Agent, "address", p.Address, "addr", p.Addr,
		"connection", fmt.Sprintf("%s, %s, %s, %s slot, from %s", p.Direction, p.Transport, p.Security, p.Slot, p.Source),
		"ready", strconv.FormatBool(p.Ready), "since", fmt.Sprintf("%s (%s)", when(p.ConnectedAt), since(p.ConnectedAt)),
		"ping", fmt.Sprintf("%.1fms", p.LatencyMS), "traffic", size(p.BytesIn)+" in, "+size(p.BytesOut)+" out",
		"services", strings.Join(p.Services, ", "), "claims", claimed, "proved", proved,
		"mesh", strings.Join(p.Mesh, ", "), "standing", fmt.Sprintf("%s, %d points, gossip score %.1f", p.Standing, p.Points, p.GossipScore),
	)
}

func viewStatic(l list[parley.StaticPeer]) *table {
	t := &table{columns: []column{{name: "ITEM"}, {name: "STATE"}, {name: "ORIGIN"}, {name: "TRIES", right: true}, {name: "NEXT"}, {name: "PEER"},
		{name: "LAST ERROR"}, {name: "PEER ID", wide: true}}, empty: "no peers are configured: give them with PEERS or --peers"}
	for _, p := range l.Items {
		next := ""
		if p.NextAt != nil {
			next = when(*p.NextAt)
		}
		t.add(p.Item, p.State, p.Origin, strconv.Itoa(p.Tries), next, short(p.ID.String()), p.LastError, p.ID.String())
	}
	return t
}
