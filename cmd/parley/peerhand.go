package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

const dialWait = 40 * time.Second // the node gives a dial by hand 30 s

const whoHelp = "PEER is a peer ID, the end or the beginning of one as lists show it, an address, the text of a static peer, or a name.\n" +
	"Where several peers fit, nothing is done and all of them are told."

// handCommands change peers by hand.
func handCommands(g *globals) []*cobra.Command {
	var trusted bool
	add := &cobra.Command{
		Use: "add ITEM", Short: "Keep a peer for ever, over restarts too", Args: cobra.ExactArgs(1),
		Long:    "ITEM is host[:port], http(s)://host:port or a multiaddr, as in PEERS. A peer of the configuration that was removed is one again.",
		Example: "parley peers add node4:8080\nparley peers add /ip4/192.0.2.7/tcp/9906/p2p/12D3KooW… --trusted",
		RunE: func(c *cobra.Command, args []string) error {
			if err := notEmpty(c, "ITEM", args[0], "host:port, http(s)://host:port or a multiaddr"); err != nil {
				return err
			}
			return changePeer(c.Context(), g, http.MethodPost, "peers", map[string]any{"address": args[0], "static": true, "trusted": trusted}, g.viewAdded)
		},
	}
	add.Flags().BoolVar(&trusted, "trusted", false, "trust it too; ITEM then ends in /p2p/ID")
	return []*cobra.Command{
		{
			Use: "connect ADDR|PEER", Short: "Connect once; the peer is not kept", Args: cobra.ExactArgs(1), Long: whoHelp,
			Example: "parley peers connect 192.0.2.7:8080\nparley peers connect node5\nparley peers connect 12D3KooW…",
			RunE:    func(c *cobra.Command, args []string) error { return g.connectPeer(c, args[0]) },
		},
		{
			Use: "disconnect PEER", Short: "Close the connection with a peer; it may come back", Args: cobra.ExactArgs(1), Long: whoHelp,
			Example: "parley peers disconnect node5\nparley peers disconnect 12D3KooW…",
			RunE:    func(c *cobra.Command, args []string) error { return g.peerVerb(c, args[0], "disconnect") },
		},
		add,
		{
			Use: "remove ITEM|PEER", Short: "Keep a static peer no longer, and close the connection", Args: cobra.ExactArgs(1),
			Long:    whoHelp + "\nOne of the configuration is back at the next start. The id that was learned for it is forgotten: remove and add a peer that was set up anew.",
			Example: "parley peers remove node4:8080\nparley peers remove 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error {
				if err := notEmpty(c, "ITEM", args[0], wantPeer); err != nil {
					return err
				}
				return changePeer(c.Context(), g, http.MethodDelete, "peers/"+url.PathEscape(args[0]), nil, func(r parley.RemovedPeer) *table {
					g.note(r.Note)
					t := facts("removed", args[0])
					if r.ID != "" && r.ID.String() != args[0] {
						t.add("peer id", r.ID.String())
					}
					return t
				})
			},
		},
		{
			Use: "trust PEER", Short: "Never evict a peer nor ban it for points, over restarts too", Args: cobra.ExactArgs(1),
			Long:    whoHelp + "\nA name is what a peer calls itself: where another one had it lately, its id is wanted.",
			Example: "parley peers trust 12D3KooW…",
			RunE:    func(c *cobra.Command, args []string) error { return g.peerVerb(c, args[0], "trust") },
		},
		{
			Use: "untrust PEER", Short: "Take the trust back", Args: cobra.ExactArgs(1), Long: whoHelp, Example: "parley peers untrust 12D3KooW…",
			RunE: func(c *cobra.Command, args []string) error { return g.peerVerb(c, args[0], "untrust") },
		},
		g.historyCommand(),
	}
}

// connectPeer dials whom an id or an address names.
func (g *globals) connectPeer(c *cobra.Command, who string) error {
	if err := notEmpty(c, "ADDR", who, "host:port, a multiaddr, or a peer of parley peers list --state known"); err != nil {
		return err
	}
	if _, err := peer.Decode(who); err == nil {
		return g.peerVerb(c, who, "connect")
	}
	return changePeer(c.Context(), g, http.MethodPost, "peers", map[string]any{"address": who}, g.viewAdded)
}

const wantPeer = "a peer ID or its end, an address or a name, as parley peers list shows them"

// notEmpty refuses an argument that is there and says nothing.
func notEmpty(c *cobra.Command, what, arg, want string) error {
	if strings.TrimSpace(arg) == "" {
		return usage(c, fmt.Errorf("%s is %q: want %s", what, arg, want))
	}
	return nil
}

// peerVerb posts a verb of one peer.
func (g *globals) peerVerb(c *cobra.Command, who, verb string) error {
	if err := notEmpty(c, "PEER", who, wantPeer); err != nil {
		return err
	}
	return changePeer(c.Context(), g, http.MethodPost, "peers/"+url.PathEscape(who)+"/"+verb, nil, func(p parley.PeerNote) *table {
		g.note(p.Note)
		state := p.State
		if p.State == "connected" && p.Ready {
			state = "connected, ready"
		}
		return facts("peer id", p.ID.String(), "name", p.Name, "address", p.Address, "state", state, "static", yes(p.Static), "trusted", yes(p.Trusted))
	})
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
	g.note(p.Note)
	t := facts("item", p.Item, "peer id", p.ID.String(), "state", p.State)
	if p.LastError != "" {
		t.add("last error", p.Class+": "+p.LastError)
	}
	return t
}
