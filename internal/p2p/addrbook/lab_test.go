package addrbook

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// someone is a peer with a key, for what must be signed.
type someone struct {
	t   testing.TB
	id  peer.ID
	key crypto.PrivKey
	seq uint64
}

func somebody(t testing.TB, n uint64) *someone {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), 1}))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &someone{t: t, id: id, key: key, seq: uint64(time.Now().UnixNano())}
}

// sign gives a record that is newer than the one before.
func (s *someone) sign(addrs ...string) []byte {
	s.t.Helper()
	s.seq++
	return s.signAs(s.id, s.seq, addrs...)
}

func (s *someone) signAs(id peer.ID, seq uint64, addrs ...string) []byte {
	s.t.Helper()
	rec := &peer.PeerRecord{PeerID: id, Seq: seq}
	for _, a := range addrs {
		rec.Addrs = append(rec.Addrs, ma.StringCast(a))
	}
	env, err := record.Seal(rec, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := env.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// id makes an identity without a key: what is in the book was verified before.
func fakeID(n uint64) peer.ID {
	b := binary.BigEndian.AppendUint64([]byte{0, 36, 8, 1, 18, 32}, n) // identity multihash of an ed25519 key
	var id peer.ID
	if err := id.UnmarshalBinary(append(b, make([]byte, 24)...)); err != nil {
		panic(err)
	}
	return id
}

// ip4 is a public address: group 0…12,000, host within it.
func ip4(group, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(20 + group/256), byte(group), byte(host / 256), byte(host)})
}

func tcp(ip netip.Addr) string {
	if ip.Is4() {
		return fmt.Sprintf("/ip4/%s/tcp/9906", ip)
	}
	return fmt.Sprintf("/ip6/%s/tcp/9906", ip)
}

func opened(t testing.TB, cfg Config) *Book {
	t.Helper()
	b, err := Open(cfg, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.entries) == 0 {
		b.seed(1)
	}
	return b
}

// seed makes an empty book foreseeable.
func (b *Book) seed(n uint64) {
	b.salt = binary.BigEndian.AppendUint64(make([]byte, saltSize-8), n)
	b.key = newKeyed(b.salt)
	b.rand = rand.New(rand.NewPCG(n, n))
}

// tell puts a peer past rate and signature.
func (b *Book) tell(t testing.TB, src Source, id peer.ID, addrs ...string) error {
	t.Helper()
	k := known{id: id, record: []byte("signed"), seq: uint64(time.Now().UnixNano())}
	for _, a := range addrs {
		p, ok := parse(ma.StringCast(a), id)
		if !ok {
			t.Fatalf("%s is not dialable", a)
		}
		k.addrs = append(k.addrs, p)
	}
	return b.insert(src, k, time.Now())
}

// from is a source of a group, one of many peers there.
func from(group int, n uint64) Source {
	return Source{Kind: PEX, Peer: fakeID(1<<40 + n), IP: ip4(group, int(n%250)+1)}
}

// check holds the invariants of the whole book.
func (b *Book) check(t interface{ Errorf(string, ...any) }) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh, tried := 0, 0
	live := map[peer.ID]int{}
	groups := map[Table]map[string]int{New: {}, Tried: {}}
	places := map[place]map[peer.ID]bool{}
	for id, e := range b.entries {
		groups[e.table()][e.group]++
		if id != e.id || len(e.addrs) == 0 || len(e.addrs) > maxAddrs || len(e.refs) > maxRefs {
			t.Errorf("%s: %d addresses, %d sources", id, len(e.addrs), len(e.refs))
		}
		if e.group != b.groupOf(e.addrs[0]) {
			t.Errorf("%s is of %s, not %s", id, e.group, b.groupOf(e.addrs[0]))
		}
		n := 0
		for _, r := range e.refs {
			if r.slot == none {
				continue
			}
			n++
			live[r.Peer]++
			if b.fresh.slot[r.slot] != e || b.newSlot(id, e.group, r.group) != r.slot {
				t.Errorf("%s is not in its slot of new", id)
			}
		}
		fresh += n
		if e.tried != none {
			tried++
			if n > 0 || b.tried.slot[e.tried] != e || b.triedSlot(id, e.group) != e.tried || e.firstGood == 0 {
				t.Errorf("%s is not as it must be in tried", id)
			}
		} else if n == 0 {
			t.Errorf("%s has no place at all", id)
		}
		for _, a := range e.addrs {
			if a.ip.IsValid() {
				if places[a.place()] == nil {
					places[a.place()] = map[peer.ID]bool{}
				}
				places[a.place()][id] = true
			}
		}
	}
	if fresh != b.fresh.size || tried != b.tried.size {
		t.Errorf("new %d tried %d, tables say %d and %d", fresh, tried, b.fresh.size, b.tried.size)
	}
	for _, tab := range []*table{&b.fresh, &b.tried} {
		n := 0
		for bucket, used := range tab.used {
			have := 0
			for _, e := range tab.slot[bucket*slots : (bucket+1)*slots] {
				have += b2i(e != nil)
			}
			if n += have; have != int(used) || (have > 0) != (tab.at[bucket] != none) {
				t.Errorf("bucket %d holds %d, says %d", bucket, have, used)
			}
		}
		if n != tab.size {
			t.Errorf("table holds %d, says %d", n, tab.size)
		}
	}
	for p, ids := range places {
		if len(ids) > p.limit() || len(b.places[p]) != len(ids) {
			t.Errorf("%v: %d peers, counted %d, limit %d", p, len(ids), len(b.places[p]), p.limit())
		}
	}
	if len(places) != len(b.places) || fmt.Sprint(live) != fmt.Sprint(b.live) || fmt.Sprint(groups) != fmt.Sprint(b.groups) {
		t.Errorf("counts are not those of the entries: places %d %d, live %d %d, groups %v %v", len(places), len(b.places), len(live), len(b.live), groups, b.groups)
	}
	for s, n := range live {
		if n > maxLive && s != "" {
			t.Errorf("%s holds %d places", s, n)
		}
	}
}

// metric reads one value by the value of its label.
func metric(t testing.TB, reg prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s{%s}", name, label)
	return 0
}
