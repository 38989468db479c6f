package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

const someID = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"

func serve(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestFetchIdentity(t *testing.T) {
	good := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/eth/v1/node/identity" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"data":{"peer_id":%q,"enr":"","p2p_addresses":["/ip4/10.0.0.1/tcp/8080/p2p/%s","nonsense","/ip4/10.0.0.1/udp/9906/quic-v1"]}}`, someID, someID)
	})
	for _, at := range []string{good, "http://" + good} {
		who, err := dialer.FetchIdentity(t.Context(), nil, at)
		if err != nil || who.ID.String() != someID || len(who.Addrs) != 2 || who.Addrs[0].String() != "/ip4/10.0.0.1/tcp/8080" {
			t.Errorf("%s: %+v, %v", at, who, err)
		}
	}
	private := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"data":{"peer_id":%q,"private_network":true}}`, someID)
	})
	for at, want := range map[string]bool{good: false, private: true} {
		if who, err := dialer.FetchIdentity(t.Context(), nil, at); err != nil || who.Private != want {
			t.Errorf("private %v, %v: want %v", who.Private, err, want)
		}
	}
	for name, f := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"no json":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no id":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"data":{"peer_id":"x"}}`) },
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"data":{"peer_id":%q,"enr":%q}}`, someID, strings.Repeat("x", 64<<10))
		},
		"long headers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			fmt.Fprintf(w, `{"data":{"peer_id":%q}}`, someID)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+good+r.URL.Path, http.StatusFound)
		},
	} {
		if who, err := dialer.FetchIdentity(t.Context(), nil, serve(t, f)); !errors.Is(err, dialer.ErrNotHTTP) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	if _, err := dialer.FetchIdentity(t.Context(), nil, at); err == nil || errors.Is(err, dialer.ErrNotHTTP) {
		t.Errorf("a closed port: %v", err)
	}
}

func tcpHost(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// tcpPort is the port that h listens on.
func tcpPort(t *testing.T, h host.Host) string {
	t.Helper()
	port, err := h.Addrs()[0].ValueForProtocol(ma.P_TCP)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

var overTCP = dialer.Functions{
	Identity: func(ctx context.Context, hostport string) (dialer.Identity, error) {
		return dialer.FetchIdentity(ctx, nil, hostport)
	},
}

// awaitConnected waits for the static peer of n.
func awaitConnected(t *testing.T, n *node, sub *event.Subscription) dialer.StaticPeer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for {
		if s := n.only(t); s.State == dialer.Connected {
			return s
		}
		select {
		case <-sub.Wake():
			sub.Take(100)
		case <-ctx.Done():
			t.Fatalf("not connected: %+v", n.only(t))
		}
	}
}

func TestJoinOverTCP(t *testing.T) {
	h := tcpHost(t)
	a := newNode(t)
	a.run(t, h, options{ip: "a"}, overTCP)
	defer a.stop()
	// Its API is on a port of its own and lists an address of another network,
	// so the port has to be dialled at the given host.
	api := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"data":{"peer_id":%q,"p2p_addresses":["/ip4/203.0.113.1/tcp/%s/p2p/%s"]}}`, h.ID(), tcpPort(t, h), h.ID())
	})
	for name, item := range map[string]string{"by http": api, "by url": "http://" + api, "by a dial": "127.0.0.1:" + tcpPort(t, h)} {
		t.Run(name, func(t *testing.T) {
			b := newNode(t)
			b.run(t, tcpHost(t), options{ip: "b", cfg: items(item)}, overTCP)
			defer b.stop()
			sub := b.bus.Subscribe()
			if s := awaitConnected(t, b, sub); s.ID != h.ID() {
				t.Errorf("connected with %+v", s)
			} else if s.Given[0].String() != "127.0.0.1" || len(s.Given) > 1 { // not what its API tells
				t.Errorf("given %v, dialled %v", s.Given, s.Addresses)
			}
			if p, ok := b.Peer(h.ID()); !ok || p.Transport != "tcp" || !p.Ready {
				t.Errorf("peer %+v", p)
			}
		})
	}
}

func TestIdentityOfOurselves(t *testing.T) {
	h := tcpHost(t)
	api := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"data":{"peer_id":%q,"p2p_addresses":[]}}`, h.ID())
	})
	listen := "127.0.0.1:" + tcpPort(t, h)
	n := newNode(t)
	n.run(t, h, options{ip: "a", cfg: dialer.Config{
		Items: []string{api, listen},
		Own:   func() []ma.Multiaddr { return h.Addrs() },
	}}, overTCP)
	defer n.stop()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(n.Static()) > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still tried: %+v", n.Static())
		}
	}
	if c := n.log.count("static peer failed"); c != 0 {
		t.Errorf("%d warnings about ourselves", c)
	}
	if n.Has(peer.ID("")) {
		t.Error("has nobody")
	}
}
