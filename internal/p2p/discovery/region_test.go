package discovery

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

func randomFar(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// nearOf gives the 20 nearest of n random places, the first attackers of which
// are within the nearest part of the key space.
func nearOf(t testing.TB, n, attackers int) []*candidate {
	var list []*candidate
	for i := range n {
		c := &candidate{far: randomFar(t), group: fmt.Sprint("g", i)}
		if i < attackers {
			c.far[0], c.far[1] = 0, 0 // nearer than 1 in 65,536
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *candidate) int { return bytes.Compare(a.far, b.far) })
	return list[:nearest]
}

// The alarm is silent on honest regions, and sounds when 17 of the 20 nearest
// are one hand's (DEFENCE 5.4: 4e-5 and .97).
func TestRegionAlarm(t *testing.T) {
	const n = 1000
	var s sizes
	if r := s.judge(nearOf(t, n, 20)); r.Dense {
		t.Error("an alarm without knowing the size")
	}
	for range sizeSamples {
		near := nearOf(t, n, 0)
		s.add(sample{size: density(nearest, near[nearest-1].far), groups: groupsOf(near)})
	}
	size, groups := s.estimate()
	if size < n*0.8 || size > n*1.25 || groups != nearest {
		t.Fatalf("a network of %d is taken for %.0f, %d groups", n, size, groups)
	}
	false1, found := 0, 0
	for range 300 {
		if s.judge(nearOf(t, n, 0)).Dense {
			false1++
		}
		if s.judge(nearOf(t, n, 18)).Dense {
			found++
		}
	}
	if false1 > 3 || found < 285 {
		t.Errorf("%d false alarms and %d true ones of 300", false1, found)
	}
	crowd := nearOf(t, n, 0)
	for i, c := range crowd {
		c.group = fmt.Sprint("g", i%4)
	}
	if r := s.judge(crowd); !r.Dense || r.Groups != 4 {
		t.Errorf("four groups among the nearest: %+v", r)
	}
	for _, c := range crowd {
		c.group = ""
	}
	if r := s.judge(crowd); r.Dense || r.Groups != -1 {
		t.Errorf("a network without public addresses: %+v", r)
	}
	for range 3 * sizeSamples {
		s.add(sample{size: 10})
	}
	if len(s.samples) != sizeSamples {
		t.Errorf("%d samples are kept", len(s.samples))
	}
}

func TestWithin(t *testing.T) {
	for _, n := range []float64{20, 64, 1000, 1e6} {
		got := share(within(20, n)) * n
		if math.Abs(got-20) > 0.001 {
			t.Errorf("of %.0f peers %.3f are within, want 20", n, got)
		}
	}
}

// sybil is a host near a key that serves the DHT by the letter and keeps
// values from being found: it stores nothing and tells of its like alone.
func (l *lab) sybil(key string, ip string, like func() []*pb.Message_Peer, value func() []byte) host.Host {
	k, _ := idNear(l.T, key, 8)
	h := l.host(ip, k)
	h.SetStreamHandler(kadID, func(st network.Stream) {
		defer st.Close()
		_ = st.SetDeadline(time.Now().Add(10 * time.Second))
		b, err := wire.ReadFrame(st, 1<<20)
		var m pb.Message
		if err != nil || proto.Unmarshal(b, &m) != nil {
			return
		}
		m.CloserPeers = like()
		if v := value(); m.GetType() == pb.Message_GET_VALUE && v != nil {
			m.Record = &recpb.Record{Key: m.GetKey(), Value: v}
		}
		out, _ := proto.Marshal(&m)
		_ = wire.WriteFrame(st, out)
	})
	return h
}

// farFrom makes an identity that is in the other half of the key space.
func farFrom(t testing.TB, key string) crypto.PrivKey {
	t.Helper()
	for {
		k := newKey(t)
		if kb.CommonPrefixLen(kb.ConvertKey(key), kb.ConvertPeerID(idOf(t, k))) == 0 {
			return k
		}
	}
}

// besideItsKey makes an author whose id shares four bits with the key of its
// values.
func besideItsKey(t testing.TB, kind string) (crypto.PrivKey, string) {
	t.Helper()
	for {
		k := newKey(t)
		id := idOf(t, k)
		if key := Key(kind, id); kb.CommonPrefixLen(kb.ConvertKey(key), kb.ConvertPeerID(id)) == 4 {
			return k, key
		}
	}
}

// crowd has all Sybils come to nodes, which take the network for larger than it
// is here, so that the statistics apply.
func crowd(t *testing.T, sybils map[peer.ID]host.Host, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		for _, s := range sybils {
			if err := s.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(time.Minute)
	for _, n := range nodes {
		k, _ := n.parts()
		k.sizes.mu.Lock()
		k.sizes.samples = slices.Repeat([]sample{{size: 300, groups: 15}}, sizeSamples)
		k.sizes.mu.Unlock()
	}
}

// seesSybilsAlone checks that those of n's table that are nearest to key are all
// Sybils.
func seesSybilsAlone(t *testing.T, sybils map[peer.ID]host.Host, n *node, key string) {
	t.Helper()
	k, _ := n.parts()
	for _, p := range k.seeds(kb.ConvertKey(key), nearest) {
		if sybils[p] == nil {
			t.Fatalf("%s is no Sybil and among the nearest", p)
		}
	}
}

// 20 Sybils in ten groups sit on a key, and are all that the author and the
// reader, who are near it too, have of that region in their tables: asked for
// others, they name each other. The alarm sounds, more peers are asked, and the
// value is stored and found all the same. An old value that the Sybils give
// loses, and is told.
func TestSybilsOnAKey(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		authorKey, key := besideItsKey(t, "note")
		o := options{cfg: publicDHT, fns: func(f *Functions) { f.Connect = nil }}
		var nodes []*node
		for i := range 12 {
			if o.key = authorKey; i != 1 {
				o.key = farFrom(t, key)
			}
			nodes = append(nodes, l.node(o))
			for _, j := range []int{i - 1, i / 2} {
				if j >= 0 && j < i {
					nodes[i].meet(nodes[j])
				}
			}
		}
		author := nodes[1]
		old := sealAs(t, testNet, authorKey, "note", 1, time.Now(), []byte("old"))
		var like []*pb.Message_Peer
		var give atomic.Value // []byte: what they say the key has
		give.Store([]byte(nil))
		sybils := map[peer.ID]host.Host{}
		for i := range nearest {
			s := l.sybil(key, fmt.Sprintf("66.%d.0.%d", i%10, 1+i), func() []*pb.Message_Peer { return like }, func() []byte { return give.Load().([]byte) })
			sybils[s.ID()] = s
			like = append(like, &pb.Message_Peer{Id: []byte(s.ID()), Addrs: [][]byte{s.Addrs()[0].Bytes()}})
		}
		crowd(t, sybils, nodes...)
		seesSybilsAlone(t, sybils, author, key)
		stored, err := author.PutValue(t.Context(), key, []byte("new"), nil)
		stored.By = slices.DeleteFunc(stored.By, func(p peer.AddrInfo) bool { return sybils[p.ID] != nil })
		if err != nil || !stored.Dense || len(stored.By) < 8 {
			t.Fatalf("put among Sybils: %v, dense %v, %d honest peers of %d", err, stored.Dense, len(stored.By), stored.Peers)
		}
		o.key, _ = idNear(t, key, 5)  // nearer than the author, who takes none of their room in its table
		reader := l.node(o)           // it comes later, and keeps no copy
		sub := reader.bus.Subscribe() // a look at the region may raise the alarm at any time from here on
		reader.meet(nodes[3])
		reader.meet(nodes[7])
		crowd(t, sybils, reader)
		seesSybilsAlone(t, sybils, reader, key)
		give.Store(old)
		got, err := reader.GetValue(t.Context(), key, 0, nil)
		if err != nil || string(got.Value.Data) != "new" {
			t.Fatalf("get among Sybils: %v %q", err, got.Value.Data)
		}
		if !got.Dense || !reader.Status().RegionAlarm || !got.Disagreement {
			t.Errorf("dense %v, alarm %v, disagreement %v", got.Dense, reader.Status().RegionAlarm, got.Disagreement)
		}
		var raised, cleared, differ int
		count := func() {
			events, _ := sub.Take(4096)
			for _, e := range events {
				switch v := e.Data.(type) {
				case event.AlarmRaised:
					if v.Code == alarmRegion && v.Evidence["network_size"] != nil {
						raised++
					}
				case event.AlarmCleared:
					cleared++
				case event.DHTDisagreement:
					if v.Key == key && len(v.Authors) == 1 && v.Authors[0] == author.host.ID() {
						differ++
					}
				}
			}
		}
		count()
		if raised != 1 || differ != 1 || cleared != 0 {
			t.Errorf("events: %d raised, %d cleared, %d disagreements", raised, cleared, differ)
		}
	})
}

// An alarm of this room has no end of its own: it ends half an hour after the
// last sign.
func TestAlarmsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyPEX})
		sub := n.bus.Subscribe()
		defer sub.Close()
		n.fns.Alarms.Seen(alarmRegion, "x", nil)
		n.fns.Alarms.Seen(alarmRegion, "x", nil)
		time.Sleep(alarmHold - time.Minute)
		if !n.fns.Alarms.On(alarmRegion) {
			t.Error("it ended too early")
		}
		time.Sleep(2*time.Minute + time.Second)
		events, _ := sub.Take(9)
		if n.fns.Alarms.On(alarmRegion) || len(events) != 2 || events[1].Type != "alarm.cleared" {
			t.Errorf("%d events, on %v", len(events), n.fns.Alarms.On(alarmRegion))
		}
	})
}

// Two values of one author with one sequence are told, and it is over half an
// hour later.
func TestAuthorOfTwoValues(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		noGreet := func(f *Functions) { f.Connect = nil }
		a, b, reader := l.node(options{cfg: publicDHT, fns: noGreet}), l.node(options{cfg: publicDHT, fns: noGreet}), l.node(options{cfg: publicDHT, fns: noGreet})
		reader.meet(a)
		reader.meet(b)
		key := newKey(t)
		author := l.host(l.address(), key)
		for n, text := range map[*node]string{a: "one", b: "two"} {
			if err := author.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
			v := sealAs(t, testNet, key, "note", 5, time.Now(), []byte(text))
			if _, err := say(t, author, n.host.ID(), putMessage(t, Key("note", author.ID()), v)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		sub := reader.bus.Subscribe()
		defer sub.Close()
		if _, err := reader.GetValue(t.Context(), Key("note", author.ID()), 0, nil); err != nil {
			t.Fatal(err)
		}
		if v, on := reader.fns.Alarms.Get(alarmDisagreement); !on || v.Evidence["author"] != author.ID().String() {
			t.Errorf("alarm %v: %+v", on, v)
		}
		time.Sleep(alarmHold + time.Minute + time.Second)
		if reader.fns.Alarms.On(alarmDisagreement) {
			t.Error("the alarm stands")
		}
		told := ""
		events, _ := sub.Take(4096)
		for _, e := range events {
			switch v := e.Data.(type) {
			case event.AlarmRaised:
				told += "+" + v.Code
			case event.AlarmCleared:
				told += "-" + v.Code
			}
		}
		if told != "+dht_disagreement-dht_disagreement" {
			t.Errorf("told %q", told)
		}
	})
}
