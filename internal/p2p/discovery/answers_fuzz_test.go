package discovery

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/wire"
)

// memHost opens streams on which the peer says what is given.
type memHost struct {
	host.Host
	peer peer.ID
	says []byte
}

func (h *memHost) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return &memStream{in: bytes.NewReader(h.says), conn: &memConn{peer: h.peer}}, nil
}

func (s *memStream) CloseWrite() error { return nil }

// FuzzDNSAddr: whatever the TXT records of a name are, what they lead to is
// within the bounds, names its peer, and is none of our own.
func FuzzDNSAddr(f *testing.F) {
	d := fuzzed(f, new([]chain.Offence))
	id := idOf(f, newKey(f))
	for _, s := range []string{
		"dnsaddr=/ip4/203.0.113.7/tcp/9906/p2p/" + id.String(), "dnsaddr=/dnsaddr/n/p2p/" + id.String() + "\ndnsaddr=/dnsaddr/N.\ndnsaddr=/dnsaddr/m",
		"dnsaddr=/dns4/x/udp/1/quic-v1/p2p/" + id.String() + "\nv=spf1\ndnsaddr=", "dnsaddr=/ip4/203.0.113.7/tcp/1/p2p/" + id.String() + "/p2p-circuit",
		"dnsaddr=/p2p/" + id.String(), "dnsaddr=/p2p-circuit", "", "\x00\n\xff",
		strings.Repeat("dnsaddr=/dnsaddr/n\n", 100), // round and round
		"*", // other names each time
	} {
		f.Add("/dnsaddr/n", s)
		f.Add("/dnsaddr/n/p2p/"+id.String(), s)
	}
	f.Fuzz(func(t *testing.T, name, records string) {
		a, err := ma.NewMultiaddr(name)
		if err != nil || len(a) == 0 || a[0].Code() != ma.P_DNSADDR {
			return
		}
		asked := 0
		d.fns.TXT = func(context.Context, string) (texts []string, err error) {
			asked++
			if records == "*" {
				for i := range 100 {
					texts = append(texts, fmt.Sprintf("dnsaddr=/dnsaddr/%d.%d", asked, i))
				}
				return texts, nil
			}
			return strings.Split(records, "\n"), nil
		}
		d.fns.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			asked++
			return []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7"), {}}, nil
		}
		_, want := peer.SplitAddr(a)
		infos, err := d.newWalk().follow(t.Context(), a)
		if asked > maxWalkNames || len(infos) > maxWalkPeers || (err == nil) != (len(infos) > 0) {
			t.Fatalf("%d names were asked for, %d peers: %v", asked, len(infos), err)
		}
		for _, info := range infos {
			if info.ID == "" || info.ID == d.host.ID() || info.ID.Validate() != nil || len(info.Addrs) == 0 || len(info.Addrs) > maxAddrs {
				t.Fatalf("%q at %v", info.ID, info.Addrs)
			}
			if want != "" && info.ID != want && !strings.Contains(records, "/dnsaddr/") {
				t.Fatalf("%s, and %s was asked for", info.ID, want)
			}
		}
	})
}

// FuzzAnswerDHT: whatever a peer answers in the DHT, a lookup takes no more
// candidates than it may, and charges what is wrong whoever reads it.
func FuzzAnswerDHT(f *testing.F) {
	var charged []chain.Offence
	d := fuzzed(f, &charged)
	key := newKey(f)
	h := &memHost{Host: d.host, peer: idOf(f, key)}
	k, err := newKad(d, testNet)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = k.close() })
	d.host = h // the rest of the room has the real one
	if k.messenger, err = pb.NewProtocolMessenger(&sender{host: h, proto: k.proto, report: d.fns.Report}); err != nil {
		f.Fatal(err)
	}
	at := Key("note", h.peer)
	value := &pb.Message{Type: pb.Message_GET_VALUE, Key: []byte(at)}
	full := &pb.Message{Type: pb.Message_FIND_NODE}
	for i := range 100 {
		full.CloserPeers = append(full.CloserPeers, &pb.Message_Peer{Id: []byte(idOf(f, newKey(f))), Addrs: [][]byte{ma.StringCast(fmt.Sprintf("/ip4/198.18.%d.1/udp/1/quic-v1", i)).Bytes(), {4, 1}}})
	}
	full.ProviderPeers = full.CloserPeers[:3]
	for _, m := range []*pb.Message{value, full, {Type: pb.Message_FIND_NODE, CloserPeers: []*pb.Message_Peer{{Id: []byte("x")}, {}}}} {
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, encode(f, m)); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	p := putMessage(f, at, sealAs(f, testNet, key, "note", 1, time.Now(), []byte("x")))
	var b bytes.Buffer
	if err := wire.WriteFrame(&b, p); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, said []byte) {
		h.says, charged = said, charged[:0]
		bounded(t, uint64(4<<20+256*len(said)), func() {
			from := &candidate{id: h.peer, path: 1}
			l := k.newLookup(at, nil)
			c := k.newCopies(at)
			if a, err := k.askValue(at)(t.Context(), h.peer); err == nil {
				l.add(from, a.closer, netip.MustParseAddr("203.0.113.7"))
				c.take(h.peer, 1, a.value)
			}
			if closer, err := k.messenger.GetClosestPeers(t.Context(), h.peer, h.peer); err == nil {
				l.add(from, closer, netip.Addr{})
			}
			if provs, closer, err := k.messenger.GetProviders(t.Context(), h.peer, []byte(at)); err == nil {
				l.add(from, provs, netip.Addr{})
				l.add(from, closer, netip.Addr{})
			}
			if len(l.all) > 4*answerPeers {
				t.Fatalf("%d candidates of four lists", len(l.all))
			}
			for id, c := range l.all {
				if len(c.addrs) == 0 || len(c.addrs) > maxAddrs {
					t.Fatalf("%q has %d addresses", id, len(c.addrs))
				}
			}
			if c.best != nil {
				if _, err := k.open(at, c.best); err != nil {
					t.Fatalf("a value was taken: %v", err)
				}
			}
		})
		for _, o := range charged {
			if o != chain.Oversize && o != chain.Malformed && o != chain.BadRecord {
				t.Fatalf("charged for %s", o)
			}
		}
	})
}

// FuzzLAN: of what mDNS hears no public address comes into the book.
func FuzzLAN(f *testing.F) {
	d := fuzzed(f, new([]chain.Offence))
	id := idOf(f, newKey(f))
	for _, s := range []string{"/ip4/10.0.0.7/tcp/9906", "/ip4/127.0.0.1/tcp/1\n/ip4/203.0.113.7/tcp/1", "/ip6/fe80::1/tcp/1\n/dns4/x/tcp/1", "/p2p-circuit", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addrs string) {
		book, err := addrbook.Open(addrbook.Config{Net: testNet, Private: true, Self: d.host.ID(), Sources: 1}, d.bus, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.intake.book = book
		info := peer.AddrInfo{ID: id}
		for s := range strings.SplitSeq(addrs, "\n") {
			if a, err := ma.NewMultiaddr(s); err == nil {
				info.Addrs = append(info.Addrs, a)
			}
		}
		lan{d}.HandlePeerFound(info)
		for _, e := range book.Entries() {
			for _, a := range e.Addrs {
				if ip := addrbook.IP(a); !ip.IsValid() || addrbook.Public(ip) || len(e.Addrs) > maxAddrs {
					t.Fatalf("%v came into the book", e.Addrs)
				}
			}
		}
	})
}
