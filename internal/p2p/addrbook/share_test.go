package addrbook

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

// An answer is 23 % at most, of whom we reached within a day, the same for a
// group for 24 h, and without whom we banned, removed or marked since.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var outlaw peer.ID
		b := opened(t, Config{Banned: func(p peer.ID, _ netip.Addr) bool { return p == outlaw }})
		all := map[string]peer.ID{}
		for i := range 100 {
			p := somebody(t, uint64(i))
			p.seq = 7
			addr := tcp(ip4(i, 1))
			env := p.sign(addr)
			all[string(env)] = p.id
			if err := b.Add(Source{Kind: Inbound, Peer: p.id, IP: ip4(i, 1)}, env); err != nil {
				t.Fatal(err)
			}
			if i < 50 {
				b.Good(p.id, ma.StringCast(addr))
			}
		}
		b.Good(fakeID(1), ma.StringCast(tcp(ip4(300, 1)))) // without a record
		ask := Source{Kind: PEX, Peer: fakeID(9), IP: ip4(600, 1)}
		first := b.Share(ask)
		if len(first) != 24 { // 23 % of 101
			t.Fatalf("%d records", len(first))
		}
		for _, env := range first {
			id := all[string(env)]
			if e, _ := b.Get(id); e.FirstGood.IsZero() {
				t.Errorf("%s was never reached", id)
			}
		}
		ask.IP, ask.Peer = ip4(600, 99), fakeID(10)
		if again := b.Share(ask); !same(first, again) {
			t.Error("another answer for the same group")
		}
		ask.IP = ip4(601, 1)
		if other := b.Share(ask); same(first, other) {
			t.Error("the same answer for another group")
		}
		ask.IP = ip4(600, 5)
		b.Remove(all[string(first[0])])
		b.WrongNetwork(all[string(first[1])])
		outlaw = all[string(first[2])]
		ask.Peer = all[string(first[3])]
		if rest := b.Share(ask); !same(first[4:], rest) {
			t.Errorf("%d records, want all but the removed, the marked, the banned and the asker's own", len(rest))
		}
		time.Sleep(shareFor)
		if late := b.Share(ask); len(late) != 0 {
			t.Errorf("%d records of whom nobody saw for a day", len(late))
		}
		for i := range 3 * maxShares {
			b.Share(from(i, 1))
		}
		if len(b.shares) > maxShares {
			t.Errorf("%d answers are kept", len(b.shares))
		}
		time.Sleep(shareFor)
		b.expire(time.Now())
		if len(b.shares) != 0 {
			t.Errorf("%d answers are kept after their day", len(b.shares))
		}
	})
}

func same(a, b [][]byte) bool { return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) }

// Who asks from outside does not learn of our LAN.
func TestShareKeepsLAN(t *testing.T) {
	b := opened(t, Config{Private: true})
	p := somebody(t, 1)
	lan := netip.MustParseAddr("192.168.1.7")
	if err := b.Add(Source{Kind: Inbound, Peer: p.id, IP: lan}, p.sign("/ip4/192.168.1.7/tcp/1")); err != nil {
		t.Fatal(err)
	}
	b.Good(p.id, nil)
	if n := len(b.Share(Source{Kind: PEX, IP: netip.MustParseAddr("192.168.1.8")})); n != 1 {
		t.Errorf("%d records for the LAN", n)
	}
	if n := len(b.Share(Source{Kind: PEX, IP: ip4(1, 1)})); n != 0 {
		t.Errorf("%d records for outside", n)
	}
}

// A line names a peer and has a record that another one signed, or that nobody
// did: both are forged.
func TestImportForged(t *testing.T) {
	honest, liar := somebody(t, 1), somebody(t, 2)
	record := honest.sign(tcp(ip4(1, 1)))
	broken := bytes.Clone(record)
	broken[len(broken)-1] ^= 1
	line := func(id peer.ID, envelope []byte) string {
		return fmt.Sprintf(`{"id":%q,"record":{"envelope":%q}}`+"\n", id, base64.StdEncoding.EncodeToString(envelope))
	}
	b := opened(t, Config{})
	n, err := b.Import(strings.NewReader(line(liar.id, record)+line(honest.id, broken)), Source{Kind: Operator})
	bad, ok := errors.AsType[*ImportError](err)
	if n != 0 || !ok || bad.Refused != 2 || len(b.Entries()) != 0 {
		t.Fatalf("%d taken: %v", n, err)
	}
	for _, l := range bad.Lines {
		if !errors.Is(l, ErrForged) {
			t.Error(l)
		}
	}
	if n, err := b.Import(strings.NewReader(line(honest.id, record)), Source{Kind: Operator}); n != 1 || err != nil {
		t.Errorf("the record itself: %d %v", n, err)
	}
}

// What one book exports another imports, into new and without belief.
func TestExportImport(t *testing.T) {
	b := opened(t, Config{Net: "abcd"})
	for i := range 20 {
		p := somebody(t, uint64(i))
		addr := tcp(ip4(i, 1))
		if err := b.Add(Source{Kind: Inbound, Peer: p.id, IP: ip4(i, 1)}, p.sign(addr)); err != nil {
			t.Fatal(err)
		}
		b.Good(p.id, ma.StringCast(addr))
	}
	if err := b.AddBare(Source{Kind: Static}, peer.AddrInfo{ID: fakeID(1), Addrs: []ma.Multiaddr{ma.StringCast("/dns4/a.example.org/tcp/1")}}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.Export(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	back := opened(t, Config{Net: "abcd"})
	n, err := back.Import(strings.NewReader(text), Source{Kind: Operator})
	if err != nil || n != 21 || len(back.Entries()) != 21 {
		t.Fatalf("%d imported, %v", n, err)
	}
	for _, e := range back.Entries() {
		if e.Table != New || !e.FirstGood.IsZero() || e.Sources[0].Kind != Operator {
			t.Errorf("%+v", e)
		}
	}
	back.check(t)
	if n, err := opened(t, Config{Net: "ef01"}).Import(strings.NewReader(text), Source{Kind: Operator}); n != 0 || !errors.Is(err, ErrOtherNetwork) {
		t.Errorf("%d imported of another network, %v", n, err)
	}
	if n, err := opened(t, Config{}).Import(strings.NewReader(text), from(1, 1)); n == 21 || !errors.Is(err, ErrRate) {
		t.Errorf("%d imported from a stranger, %v", n, err)
	}
	bad := "\n" + `{"id":"12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj","addresses":["/ip4/20.1.1.1/tcp/1"],"later":1}` + "\n" +
		strings.Repeat("{\n", 12) + `{"id":"x","addresses":["/ip4/20.1.1.1/tcp/1"]}`
	n, err = opened(t, Config{}).Import(strings.NewReader(bad), Source{Kind: Operator})
	if n != 1 || err == nil || !strings.Contains(err.Error(), "line 3:") || !strings.Contains(err.Error(), "and 3 more lines") {
		t.Errorf("%d imported, %v", n, err)
	}
	if e, ok := errors.AsType[*ImportError](err); !ok || e.Refused != 13 || len(e.Lines) != 10 || e.Lines[0].Line != 3 {
		t.Errorf("%+v", err)
	}
	if _, err := opened(t, Config{}).Import(strings.NewReader(strings.Repeat("x", 2*maxLine)), Source{Kind: Operator}); err == nil {
		t.Error("an endless line is taken")
	}
}

func FuzzImportLine(f *testing.F) {
	f.Add([]byte(`{"parley_addrbook":1,"network":"abcd","entries":2}`))
	f.Add([]byte(`{"id":"12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj","addresses":["/ip4/20.1.1.1/tcp/1","/dns4/a.org/tcp/1/ws"]}`))
	f.Add([]byte(`{"id":"12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj","record":{"seq":1,"envelope":"YWJj"}}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		b := opened(t, Config{})
		n, err := b.Import(bytes.NewReader(p), Source{Kind: Operator})
		if have := len(b.Entries()); have > n {
			t.Errorf("%d entries of %d lines, %v", have, n, err)
		}
		b.check(t)
		told, err := readLine(p)
		if err == nil && (told.info.ID == "") == (told.envelope != nil || told.info.Addrs != nil) {
			t.Errorf("%+v", told)
		}
	})
}

// Everything at once; -race looks on.
func TestConcurrent(t *testing.T) {
	reg := prometheus.NewRegistry()
	b, err := Open(Config{Dir: t.TempDir(), Banned: func(p peer.ID, _ netip.Addr) bool { return p == fakeID(3) }}, nil, nil, reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextWithCancel(t)
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	signed := somebody(t, 1).sign(tcp(ip4(1, 1)))
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 500 {
				id := fakeID(uint64(r.IntN(800)))
				addr := tcp(ip4(r.IntN(300), r.IntN(200)+1))
				_ = b.tell(t, from(r.IntN(50), uint64(r.IntN(50))), id, addr)
				b.Attempt(id)
				switch r.IntN(4) {
				case 0:
					b.Good(id, ma.StringCast(addr))
				case 1:
					b.Failed(id, "timeout")
				case 2:
					b.Seen(id)
				}
				b.Pick(PickOptions{Skip: func(e Entry) bool { _, ok := b.Get(e.ID); return !ok }})
				if i%50 == 0 {
					_ = b.Add(Source{Kind: PEX, Peer: id}, signed)
					b.Asked(id)
					b.Share(from(r.IntN(9), 1))
					b.Test()
					b.SetAnchors([]peer.ID{id})
					b.Anchors()
					b.Stats()
					b.expire(time.Now())
					if err := errors.Join(b.save(), b.saveAnchors(), b.Export(&bytes.Buffer{})); err != nil {
						t.Error(err)
					}
					b.Remove(id)
				}
			}
		})
	}
	all.Wait()
	b.check(t)
	if got := metric(t, reg, "parley_addrbook_entries", "new") + metric(t, reg, "parley_addrbook_entries", "tried"); int(got) != len(b.Entries()) {
		t.Errorf("metrics say %v entries", got)
	}
	if got := metric(t, reg, "parley_addrbook_groups", "tried"); int(got) != b.Stats().TriedGroups {
		t.Errorf("metrics say %v groups", got)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
