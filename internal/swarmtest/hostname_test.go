package swarmtest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-p2p/parley/config"
)

// dns answers for one name, by what was set last.
type dns struct {
	name  string
	addrs atomic.Pointer[string] // by blanks; "" = the lookup fails
	asked atomic.Int64
}

func (d *dns) lead(to string) { d.addrs.Store(&to) }

func (d *dns) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if host != d.name {
		return resolve(ctx, host)
	}
	d.asked.Add(1)
	var ips []netip.Addr
	for text := range strings.FieldsSeq(*d.addrs.Load()) {
		ips = append(ips, netip.MustParseAddr(text))
	}
	if len(ips) == 0 {
		return nil, errors.New("the server is away")
	}
	return ips, nil
}

// What p2p.host_ip and p2p.host_dns name is told to others, both at once, and
// where the name leads to by now.
func TestHostName(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add(Alone, func(c *config.Config) { c.P2P.HostIP, c.P2P.HostDNS = "8.8.8.8", "node.example.com" })
		zone := &dns{name: "node.example.com"}
		zone.lead("8.8.4.4")
		a.Resolve = zone.resolve
		s.Genesis("names", a)
		b := s.Add(Alone, Peers(a.Addr()))
		a.Start()
		b.Start()
		s.Until("the peer", 20*time.Second, func() bool { return b.connected(a) })
		p, _ := b.Peer(a.ID())
		const named = "/dns4/node.example.com/udp/9906/quic-v1"
		told := func(want ...string) func() bool {
			want = append(want, a.listenAddr())
			return func() bool {
				d, _ := b.PeerDetail(a.ID())
				own := a.Info().Advertised
				for _, addr := range want {
					if !slices.Contains(d.Addresses, addr) || !slices.Contains(own, addr+"/p2p/"+a.ID().String()) {
						return false
					}
				}
				return len(own) == 2*len(want)-1 // each by TCP and by QUIC, but for where it listens
			}
		}
		s.Until("both are told", time.Second, told("/ip4/8.8.8.8/udp/9906/quic-v1", named, "/ip4/8.8.4.4/udp/9906/quic-v1"))

		// the name leads elsewhere, which is known after a minute
		zone.lead("9.9.9.9 2606::9 127.0.1.1")
		moved := told("/ip4/8.8.8.8/udp/9906/quic-v1", named, "/dns6/node.example.com/udp/9906/quic-v1", "/ip4/9.9.9.9/udp/9906/quic-v1", "/ip6/2606::9/udp/9906/quic-v1")
		s.Until("the new address", 67*time.Second, moved)
		if log := a.Log.Tail(50); !strings.Contains(log, "public address changed") || !strings.Contains(log, "127.0.1.1, which node.example.com is on this machine") {
			t.Errorf("the log has no word of it:\n%s", log)
		}

		// while the lookup fails it stays, and the log has one line of that
		zone.lead("")
		asked := zone.asked.Load()
		time.Sleep(5 * time.Minute)
		if n := zone.asked.Load() - asked; n < 8 || n > 12 { // for each family
			t.Errorf("in five minutes the name was looked up %d times", n)
		}
		if !moved() || strings.Count(a.Log.Tail(200), "cannot be looked up here") != 1 {
			t.Errorf("after lookups that failed: %q\n%s", a.Info().Advertised, a.Log.Tail(50))
		}
		zone.lead("9.9.9.9")
		s.Until("one address", 67*time.Second, told("/ip4/8.8.8.8/udp/9906/quic-v1", named, "/ip4/9.9.9.9/udp/9906/quic-v1"))

		// by a reload, at once
		a.refuses(`p2p.host_ip: "node"`, func(c *config.Config) { c.P2P.HostIP = "node" })
		a.reload("p2p.host_ip", func(c *config.Config) { c.P2P.HostIP = "0.0.0.0" })
		s.Until("the name alone", time.Second, told(named, "/ip4/9.9.9.9/udp/9906/quic-v1"))
		if log := a.Log.Tail(50); strings.Count(log, "setting=p2p.host_ip") != 1 || !strings.Contains(log, `0.0.0.0 means \"every interface\"`) || !strings.Contains(log, "PLY-302") {
			t.Errorf("the log of 0.0.0.0:\n%s", log)
		}
		zone.name = "other.example.com"
		a.reload("p2p.host_dns p2p.host_ip", func(c *config.Config) { c.P2P.HostIP, c.P2P.HostDNS = "8.8.8.8", "other.example.com" })
		s.Until("the other name", time.Second, told("/ip4/8.8.8.8/udp/9906/quic-v1", "/dns4/other.example.com/udp/9906/quic-v1", "/ip4/9.9.9.9/udp/9906/quic-v1"))
		a.reload("p2p.host_dns", func(c *config.Config) { c.P2P.HostDNS = "" })
		s.Until("the address alone", time.Second, told("/ip4/8.8.8.8/udp/9906/quic-v1"))
		asked = zone.asked.Load()
		time.Sleep(5 * time.Minute)
		if n := zone.asked.Load() - asked; n > 0 {
			t.Errorf("a name that is not advertised any more was looked up %d times", n)
		}
		if now, _ := b.Peer(a.ID()); !now.ConnectedAt.Equal(p.ConnectedAt) {
			t.Error("the connection is another one")
		}
	})
}
