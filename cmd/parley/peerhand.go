package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

const dialWait = 40 * time.Second // the node gives a dial by hand 30 s

// handCommands change peers by hand. ID is a peer ID or, of a peer that the
// node knows, its address or the static peer's text.
func handCommands(g *globals) []*cobra.Command {
	var trusted bool
	add := &cobra.Command{
		Use: "add ITEM", Short: "Keep a peer for ever, over restarts too", Args: cobra.ExactArgs(1),
		Long:    "ITEM is host[:port], http(s)://host:port or a multiaddr, as in PEERS. A peer of the configuration that was removed is one again.",
		Example: "parley peers add node4:8080\nparley peers add /ip4/192.0.2.7/tcp/9906/p2p/12D3KooW… --trusted",
		RunE: func(c *cobra.Command, args []string) error {
			return changePeer(c.Context(), g, http.MethodPost, "peers", map[string]any{"address": args[0], "static": true, "trusted": trusted}, g.viewAdded)
		},
	}
	add.Flags().BoolVar(&trusted, "trusted", false, "trust it too; ITEM then ends in /p2p/ID")
	return []*cobra.Command{
		{
			Use: "connect ADDR|ID", Short: "Connect once; the peer is not kept", Args: cobra.ExactArgs(1),
			Example: "parley peers connect 192.0.2.7:8080\nparley peers connect 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error {
				if _, err := peer.Decode(args[0]); err == nil {
					return g.peerVerb(c.Context(), args[0], "connect")
				}
				return changePeer(c.Context(), g, http.MethodPost, "peers", map[string]any{"address": args[0]}, g.viewAdded)
			},
		},
		{
			Use: "disconnect ADDR|ID", Short: "Close the connection with a peer; it may come back", Args: cobra.ExactArgs(1),
			Example: "parley peers disconnect 12D3KooW…",
			RunE:    func(c *cobra.Command, args []string) error { return g.peerVerb(c.Context(), args[0], "disconnect") },
		},
		add,
		{
			Use: "remove ITEM|ID", Short: "Keep a static peer no longer, and close the connection", Args: cobra.ExactArgs(1),
			Long:    "One of the configuration is back at the next start. The id that was learned for it is forgotten: remove and add a peer that was set up anew.",
			Example: "parley peers remove node4:8080\nparley peers remove 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error {
				return changePeer(c.Context(), g, http.MethodDelete, "peers/"+url.PathEscape(args[0]), nil, func(r parley.RemovedPeer) *table {
					g.note(r.Note)
					return facts("removed", args[0])
				})
			},
		},
		{
			Use: "trust ID", Short: "Never evict a peer nor refuse it for points, over restarts too", Args: cobra.ExactArgs(1),
			Example: "parley peers trust 12D3KooW…",
			RunE:    func(c *cobra.Command, args []string) error { return g.peerVerb(c.Context(), args[0], "trust") },
		},
		{
			Use: "untrust ID", Short: "Take the trust back", Args: cobra.ExactArgs(1), Example: "parley peers untrust 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error { return g.peerVerb(c.Context(), args[0], "untrust") },
		},
		{
			Use: "history [ID]", Short: "How connections ended and who was refused, newest first", Args: cobra.MaximumNArgs(1),
			Example: "parley peers history\nparley peers history 12D3KooW… --limit 20",
			RunE: func(c *cobra.Command, args []string) error {
				path := "peers/history"
				if len(args) == 1 {
					cl, err := g.client()
					if err != nil {
						return err
					}
					id, err := g.peerOf(c.Context(), cl, args[0])
					if err != nil {
						return err
					}
					path = "peers/" + url.PathEscape(id) + "/history"
				}
				return ask(c.Context(), g, query(path, "limit", g.limitText()), func(l list[parley.HistoryEntry]) *table { return viewHistory(l, len(args) == 0) })
			},
		},
	}
}

// peerVerb posts a verb of one peer.
func (g *globals) peerVerb(ctx context.Context, text, verb string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	id, err := g.peerOf(ctx, c, text)
	if err != nil {
		return err
	}
	return changePeer(ctx, g, http.MethodPost, "peers/"+url.PathEscape(id)+"/"+verb, nil, func(p parley.PeerNote) *table {
		g.note(p.Note)
		state := p.State
		if p.State == "connected" && p.Ready {
			state = "connected, ready"
		}
		return facts("peer id", p.ID.String(), "name", p.Name, "address", p.Address, "state", state, "static", yes(p.Static), "trusted", yes(p.Trusted))
	})
}

// peerOf finds the id of a peer that the node knows by an address or as a
// static peer. What it finds nothing for is the node's to judge.
func (g *globals) peerOf(ctx context.Context, c *client, text string) (string, error) {
	if _, err := peer.Decode(text); err == nil {
		return text, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := c.get(ctx, "peers?state=known&limit=1000")
	if err != nil {
		return "", err
	}
	peers, err := decode[list[parley.Peer]](body)
	if err != nil {
		return "", err
	}
	for _, p := range peers.Items {
		if p.Address == text || p.Addr == text {
			return p.ID.String(), nil
		}
	}
	if body, err = c.get(ctx, "static-peers?limit=1000"); err != nil {
		return "", err
	}
	kept, err := decode[list[parley.StaticPeer]](body)
	if err != nil {
		return "", err
	}
	for _, p := range kept.Items {
		if p.Item == text && p.ID != "" {
			return p.ID.String(), nil
		}
	}
	return "", fail(exitNotFound, "no peer is known by %q: name it by its peer ID, see parley peers list -o wide", text)
}

// changePeer sends a change and shows the answer.
func changePeer[T any](ctx context.Context, g *globals, method, path string, in any, view func(T) *table) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	timeout := g.timeout
	if timeout == defaultTimeout {
		timeout = dialWait
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out []byte
	contentType := ""
	if in != nil {
		if out, err = json.Marshal(in); err != nil {
			return err
		}
		contentType = jsonMedia
	}
	body, err := c.do(ctx, method, path, contentType, out)
	if err != nil {
		return err
	}
	if len(body) == 0 { // done, and there is nothing more to say
		body = []byte("{}")
	}
	return g.show(body, func() (*table, error) {
		v, err := decode[T](body)
		if err != nil {
			return nil, err
		}
		return view(v), nil
	})
}

func (g *globals) note(text string) {
	if text != "" {
		g.say("%s", text)
	}
}

func (g *globals) viewAdded(p parley.AddedPeer) *table {
	if p.ID == "" {
		g.say("who it is is not known yet: it is tried until somebody answers, see parley peers static")
	}
	t := facts("item", p.Item, "peer id", p.ID.String(), "state", p.State)
	if p.LastError != "" {
		t.add("last error", p.Class+": "+p.LastError)
	}
	return t
}

func viewHistory(l list[parley.HistoryEntry], all bool) *table {
	t := &table{columns: []column{{name: "WHEN"}, {name: "EVENT"}, {name: "DIR"}, {name: "LASTED", right: true}, {name: "BY"},
		{name: "PEER"}, {name: "REASON"}, {name: "PEER ID", wide: true}, {name: "ADDR", wide: true}, {name: "GOODBYE", wide: true, right: true}},
		empty: "nothing is remembered of that peer"}
	if all {
		t.empty = "nothing is remembered yet"
	}
	for _, e := range l.Items {
		lasted, goodbye := "", ""
		if e.Event == "disconnected" {
			lasted = seconds(e.DurationS)
		}
		if e.Goodbye > 0 {
			goodbye = strconv.FormatUint(e.Goodbye, 10)
		}
		t.add(when(e.At), e.Event, direction(e.Direction), lasted, e.By, short(e.Peer.String()), e.Reason, e.Peer.String(), e.Addr, goodbye)
	}
	return t
}
