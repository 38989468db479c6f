package discovery

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-base32"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

var publicDHT = Config{Discovery: config.Discovery{DHT: config.DHTServer, DHTScope: config.DHTScopePublic, Rendezvous: true}}

const kadID = "/parley/" + testNet + "/kad/1.0.0"

// say sends bytes as one frame and waits until the other side closes or resets;
// it returns what came back.
func say(t *testing.T, h host.Host, p peer.ID, frame []byte) ([]byte, error) {
	t.Helper()
	st, err := h.NewStream(t.Context(), p, kadID)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Reset()
	_ = st.SetDeadline(time.Now().Add(20 * time.Second))
	if err := wire.WriteFrame(st, frame); err != nil {
		return nil, err
	}
	_ = st.CloseWrite()
	return io.ReadAll(st)
}

func encode(t testing.TB, m *pb.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func putMessage(t testing.TB, key string, data []byte) []byte {
	return encode(t, &pb.Message{Type: pb.Message_PUT_VALUE, Key: []byte(key), Record: &recpb.Record{Key: []byte(key), Value: data}})
}

// sealAs signs a value with any key, for any network and time.
func sealAs(t testing.TB, net string, key crypto.PrivKey, kind string, seq uint64, issued time.Time, data []byte) []byte {
	t.Helper()
	b, err := (&kad{net: net}).seal(key, wire.DHTValue{Kind: kind, Seq: seq, TimeMS: uint64(issued.UnixMilli()), Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func idOf(t testing.TB, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Each bad value that is sent to a node is refused and counted, and costs what
// it should cost.
func TestBadValues(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT})
		key, other := newKey(t), newKey(t)
		bad := l.host(l.address(), key)
		if err := bad.Connect(t.Context(), n.info()); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		mine, theirs := Key("note", bad.ID()), Key("note", idOf(t, other))
		good := sealAs(t, testNet, key, "note", 5, now, []byte("good"))
		spoilt := append([]byte(nil), good...)
		spoilt[len(spoilt)-1] ^= 1
		for _, tt := range []struct {
			name    string
			frame   []byte
			offence chain.Offence // "" = none
			refused bool
		}{
			{"good", putMessage(t, mine, good), "", false},
			{"older than what is there", putMessage(t, mine, sealAs(t, testNet, key, "note", 4, now, nil)), "", true},
			{"another's, well signed", putMessage(t, theirs, sealAs(t, testNet, other, "note", 1, now, nil)), "", false},
			{"own, signature spoilt", putMessage(t, mine, spoilt), chain.BadRecord, true},
			{"own key, signed by another", putMessage(t, mine, sealAs(t, testNet, other, "note", 9, now, nil)), chain.BadRecord, true},
			{"another's key, signed by us", putMessage(t, theirs, sealAs(t, testNet, key, "note", 9, now, nil)), chain.Malformed, true},
			{"of another network", putMessage(t, mine, sealAs(t, "ffffffff", key, "note", 9, now, nil)), chain.BadRecord, true},
			{"of another kind", putMessage(t, mine, sealAs(t, testNet, key, "memo", 9, now, nil)), chain.BadRecord, true},
			{"to come", putMessage(t, mine, sealAs(t, testNet, key, "note", 9, now.Add(time.Hour), nil)), chain.BadRecord, true},
			{"too old", putMessage(t, mine, sealAs(t, testNet, key, "note", 9, now.Add(-49*time.Hour), nil)), "", true},
			{"key of no kind", putMessage(t, "/parley/x", good), chain.Malformed, true},
			{"of IPFS", putMessage(t, "/ipns/x", good), chain.Malformed, true},
			{"5 KiB", putMessage(t, mine, make([]byte, 5<<10)), chain.Oversize, true},
			{"frame of 20 KiB", putMessage(t, mine, make([]byte, 20<<10)), chain.Oversize, true},
			{"noise", []byte{0xff, 0xff, 0xff}, chain.Malformed, true},
		} {
			before := n.charged(tt.offence)
			total := len(n.offences)
			_, err := say(t, bad, n.host.ID(), tt.frame)
			if tt.refused != (err != nil) {
				t.Errorf("%s: %v", tt.name, err)
			}
			switch {
			case tt.offence == "" && len(n.offences) != total:
				t.Errorf("%s: charged with %s", tt.name, n.offences[total:])
			case tt.offence != "" && n.charged(tt.offence) != before+1:
				t.Errorf("%s: charged with %v, want %s", tt.name, n.offences[total:], tt.offence)
			}
		}
		if s := n.Status(); s.Values != 2 {
			t.Errorf("%d values are stored, want 2", s.Values)
		}
		for _, reason := range []string{"bad_record", "malformed", "oversize", "old_record"} {
			if n.counter("parley_discovery_refused_total", reason) == 0 {
				t.Errorf("%s is not counted", reason)
			}
		}
	})
}

// Providers: for oneself alone, so many of one peer.
func TestBadProviders(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT})
		bad := l.host(l.address(), newKey(t))
		if err := bad.Connect(t.Context(), n.info()); err != nil {
			t.Fatal(err)
		}
		provide := func(key string, who ...peer.ID) ([]byte, error) {
			m := &pb.Message{Type: pb.Message_ADD_PROVIDER, Key: []byte(key)}
			for _, p := range who {
				m.ProviderPeers = append(m.ProviderPeers, &pb.Message_Peer{Id: []byte(p), Addrs: [][]byte{bad.Addrs()[0].Bytes()}})
			}
			return say(t, bad, n.host.ID(), encode(t, m))
		}
		if _, err := provide("k", n.host.ID()); err == nil {
			t.Error("a provider that is somebody else is taken")
		}
		if _, err := provide("k", bad.ID(), n.host.ID()); err == nil || n.charged(chain.Violation) != 1 {
			t.Errorf("two providers in one request: %v, %v", err, n.offences)
		}
		refused := 0
		for i := range maxPerProvider + 40 {
			if _, err := provide(fmt.Sprint("key", i), bad.ID()); err != nil {
				refused++
			}
		}
		if s := n.Status(); s.Providers != maxPerProvider || refused != 40 {
			t.Errorf("%d entries of one peer, %d refused; want %d and 40", s.Providers, refused, maxPerProvider)
		}
		// The budget of 20 a second held it up, and nobody was charged for that.
		if n.charged(chain.Spam) > 0 {
			t.Error("a slow flood is spam")
		}
		time.Sleep(26 * time.Hour)
		if s := n.Status(); s.Providers != 0 {
			t.Errorf("%d entries are left after a day", s.Providers)
		}
	})
}

// A node of the private scope serves nobody before the handshake, and nobody
// more streams than it can use.
func TestWhoMayAsk(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		closed := l.node(options{cfg: onlyDHT})
		open := l.node(options{cfg: publicDHT})
		h := l.host(l.address(), newKey(t))
		ask := encode(t, &pb.Message{Type: pb.Message_FIND_NODE, Key: []byte(h.ID())})
		for _, n := range []*node{closed, open} {
			if err := h.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := say(t, h, closed.host.ID(), ask); err == nil || closed.counter("parley_discovery_refused_total", "not_ready") != 1 {
			t.Errorf("a stranger is answered: %v", err)
		}
		if b, err := say(t, h, open.host.ID(), ask); err != nil || len(b) == 0 {
			t.Errorf("the public scope does not answer: %v", err)
		}
		var streams []network.Stream
		for range 2000 {
			st, err := h.NewStream(t.Context(), open.host.ID(), kadID)
			if err != nil {
				break
			}
			_, _ = st.Write([]byte{1}) // half a frame
			streams = append(streams, st)
		}
		time.Sleep(time.Second)
		if open.counter("parley_discovery_refused_total", "streams") < 1900 || open.charged(chain.Spam) == 0 {
			t.Errorf("%v streams refused, charged %v", open.counter("parley_discovery_refused_total", "streams"), open.offences)
		}
		for _, st := range streams {
			_ = st.Reset()
		}
		time.Sleep(2 * time.Minute)
		if _, err := say(t, h, open.host.ID(), ask); err != nil {
			t.Errorf("the flood is over and it still refuses: %v", err)
		}
		k, _ := open.parts()
		k.scope.mu.Lock()
		defer k.scope.mu.Unlock()
		if len(k.scope.held) > 1 {
			t.Errorf("%d streams are held", len(k.scope.held))
		}
	})
}

// One peer is answered a hundred times at once and 20 times a second from then
// on, on whatever streams; more of it waits and costs nothing.
func TestDHTBudget(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT})
		h, other := l.host(l.address(), newKey(t)), l.host(l.address(), newKey(t))
		for _, h := range []host.Host{h, other} { // whom it dials need not greet it
			if err := n.host.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
				t.Fatal(err)
			}
		}
		ask := encode(t, &pb.Message{Type: pb.Message_FIND_NODE, Key: []byte(h.ID())})
		start := time.Now()
		var all sync.WaitGroup
		for range 15 {
			all.Go(func() {
				for range 20 {
					if b, err := say(t, h, n.host.ID(), ask); err != nil || len(b) == 0 {
						t.Errorf("not answered: %v", err)
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		now := time.Now()
		if _, err := say(t, other, n.host.ID(), ask); err != nil || time.Since(now) > time.Second {
			t.Errorf("another peer waited %s: %v", time.Since(now), err)
		}
		all.Wait()
		if took := time.Since(start); took < 9900*time.Millisecond || took > 12*time.Second { // 200 at 20 a second
			t.Errorf("300 requests took %s, want 10 s", took)
		}
		if len(n.offences) > 0 {
			t.Errorf("charged with %v", n.offences)
		}
	})
}

// A stream to the DHT that says nothing more is closed after a minute, and a
// request of more than 16 KiB is not read.
func TestIdleAndLongRequests(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT})
		h := l.host(l.address(), newKey(t))
		if err := n.host.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
			t.Fatal(err)
		}
		st, err := h.NewStream(t.Context(), n.host.ID(), kadID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte{0x80}); err != nil { // half a length
			t.Fatal(err)
		}
		start := time.Now()
		_ = st.SetDeadline(start.Add(2 * time.Minute))
		if _, err := io.ReadAll(st); err == nil || time.Since(start) < 59*time.Second || time.Since(start) > 61*time.Second {
			t.Errorf("an idle stream ended after %s: %v", time.Since(start), err)
		}
		for size, refused := range map[int]bool{16<<10 - 100: false, 16<<10 + 100: true} {
			ask := encode(t, &pb.Message{Type: pb.Message_FIND_NODE, Key: make([]byte, size)})
			before := n.charged(chain.Oversize)
			if _, err := say(t, h, n.host.ID(), ask); refused && err == nil || n.charged(chain.Oversize)-before != map[bool]int{true: 1}[refused] {
				t.Errorf("a request of %d bytes: %v, charged %v", len(ask), err, n.offences)
			}
		}
	})
}

func TestStoreIsBounded(t *testing.T) {
	self := idOf(t, newKey(t))
	group := "9.9"
	s := newStore(self, func(peer.ID) string { return group })
	valueKey := func(i int) ds.Key {
		return ds.NewKey("/parley/" + base32.RawStdEncoding.EncodeToString(fmt.Appendf(nil, "/parley/k/%d", i)))
	}
	for i := range 3 * maxValues {
		_ = s.Put(t.Context(), valueKey(i), []byte("v"))
	}
	if len(s.values) != maxValues {
		t.Fatalf("%d values", len(s.values))
	}
	// Those that were kept are nearer than those that were not.
	var far, near []byte
	for i := range 3 * maxValues {
		d := s.distance(valueKey(i))
		if ok, _ := s.Has(t.Context(), valueKey(i)); ok {
			if far == nil || string(d) > string(far) {
				far = d
			}
		} else if near == nil || string(d) < string(near) {
			near = d
		}
	}
	if string(far) > string(near) {
		t.Error("a farther value was kept than one that was dropped")
	}
	put := func(key string, p peer.ID) error {
		return s.Put(t.Context(), ds.NewKey(records.ProvidersKeyPrefix+base32.RawStdEncoding.EncodeToString([]byte(key))+"/"+base32.RawStdEncoding.EncodeToString([]byte(p))), []byte("t"))
	}
	for i := range 2 * maxPerKey { // one key
		_ = put("popular", peer.ID(fmt.Sprint("p", i)))
	}
	if s.entries != maxPerKey {
		t.Errorf("%d providers of one key", s.entries)
	}
	for i := range maxProviders { // one group
		_ = put(fmt.Sprint("k", i), peer.ID(fmt.Sprint("p", i)))
	}
	if s.entries != maxProviders/maxPerGroupPart {
		t.Errorf("%d entries of one group", s.entries)
	}
	for i := range 3 * maxProviders { // many groups
		group = fmt.Sprint("g", i%500)
		_ = put(fmt.Sprint("m", i), peer.ID(fmt.Sprint("q", i)))
	}
	if s.entries != maxProviders {
		t.Errorf("%d entries in all", s.entries)
	}
}

// Where there is no room for one more visit, the one that has been idle the
// longest gives way; nobody who is being asked does.
func TestIdleVisitsGiveWay(t *testing.T) {
	v := &visits{open: map[peer.ID]*visit{}}
	now := time.Now()
	for i := range maxVisits {
		v.open[peer.ID(fmt.Sprint(i))] = &visit{users: 1}
	}
	if p := v.longestIdle(); p != "" {
		t.Errorf("%q is being asked and gives way", p)
	}
	v.open["7"] = &visit{idle: now}
	v.open["9"] = &visit{idle: now.Add(-time.Second)}
	if p := v.longestIdle(); p != "9" {
		t.Errorf("%q gives way, want 9", p)
	}
}
