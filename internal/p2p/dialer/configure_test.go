package dialer_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// The static peers of a configuration that is read again: new ones are tried
// and kept, names are looked up as ever, and what is gone is tried no more. What
// was done by hand stays.
func TestStaticPeersReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		file := filepath.Join(t.TempDir(), "static-peers.json")
		w.name("late", "1.9.0.1") // nobody is there yet
		a, c, e := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.3.0.1"}), w.node(options{ip: "1.5.0.1"})
		for _, n := range []*node{a, c, e} {
			defer n.stop()
		}
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", key: key, cfg: dialer.Config{Items: []string{"1.1.0.1", "1.3.0.1"}, File: file}})
		if err := b.Add("1.5.0.1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if _, err := b.Remove("1.3.0.1"); err != nil {
			t.Fatal(err)
		}
		origins := func() string {
			var list []string
			for _, s := range b.Static() {
				list = append(list, s.Item+"="+s.Origin)
			}
			return strings.Join(list, " ")
		}
		if got := origins(); got != "1.1.0.1=config 1.5.0.1=api" {
			t.Fatalf("at first: %s", got)
		}
		if _, err := b.SetStatic([]string{"late", "enode://a@b:1"}); err == nil || origins() != "1.1.0.1=config 1.5.0.1=api" {
			t.Errorf("an item that cannot be read: %v, %s", err, origins())
		}
		r, err := b.SetStatic([]string{"late", "1.3.0.1", "1.5.0.1", "late"})
		if err != nil || !slices.Equal(r.Items, []string{"1.1.0.1"}) || !slices.Equal(r.Peers, []peer.ID{a.host.ID()}) {
			t.Errorf("set: %+v, %v", r, err)
		}
		if got := origins(); got != "1.5.0.1=config late=config" {
			t.Errorf("then: %s", got)
		}
		if b.Has(a.host.ID()) || b.host.ConnManager().IsProtected(a.host.ID(), "static") || b.Has(c.host.ID()) {
			t.Error("a former static peer is one still, or one that was removed by hand is back")
		}
		time.Sleep(30 * time.Second)
		w.name("late", "1.1.0.1")
		time.Sleep(20 * time.Second)
		if s, ok := b.Find("late"); !ok || s.State != dialer.Connected || s.ID != a.host.ID() {
			t.Errorf("a name that was listed meanwhile and came to resolve: %+v", s)
		}
		if kept, err := os.ReadFile(file); err != nil || strings.Contains(string(kept), "1.1.0.1") || strings.Contains(string(kept), `"added"`) {
			t.Errorf("the file: %s, %v", kept, err)
		}
		if r, err = b.SetStatic(nil); err != nil || !slices.Equal(r.Items, []string{"1.5.0.1", "late"}) || b.Configured() != 0 {
			t.Errorf("none any more: %+v, %v", r, err)
		}
		b.stop()

		// the next start comes to the same
		b = w.node(options{ip: "1.2.0.1", key: key, cfg: dialer.Config{File: file}})
		defer b.stop()
		if len(b.Static()) > 0 {
			t.Errorf("after a restart: %s", origins())
		}
	})
}

// One of two ways to a peer that is taken away leaves it what it was.
func TestOneOfTwoWaysIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("node", "1.1.0.1")
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1", "node")})
		defer b.stop()
		for _, left := range []string{"node", "1.1.0.1"} {
			if _, err := b.SetStatic([]string{"1.1.0.1", "node"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if _, err := b.SetStatic([]string{left}); err != nil {
				t.Fatal(err)
			}
			if !b.Has(a.host.ID()) || !b.host.ConnManager().IsProtected(a.host.ID(), "static") {
				t.Errorf("with %s alone it is no static peer", left)
			}
			time.Sleep(30 * time.Second)
			if s := b.only(t); s.State != dialer.Connected || s.Item != left {
				t.Errorf("with %s alone: %+v", left, s)
			}
		}
	})
}

// Trust by configuration comes and goes; that of run time is left alone.
func TestTrustReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		file := filepath.Join(t.TempDir(), "static-peers.json")
		var ids []peer.ID
		for range 4 {
			id, err := peer.IDFromPrivateKey(newKey(t))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", key: key, cfg: dialer.Config{Trusted: ids[:2], File: file}})
		for _, p := range ids[2:] {
			if err := b.Trust(p); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := b.Untrust(ids[1]); err != nil {
			t.Fatal(err)
		}
		trusted := func(want ...bool) {
			t.Helper()
			for i, p := range ids {
				if b.Trusted(p) != want[i] || b.Exempt(p) != want[i] || b.host.ConnManager().IsProtected(p, "trusted") != want[i] {
					t.Errorf("peer %d: trusted %v, want %v", i, b.Trusted(p), want[i])
				}
			}
		}
		b.SetTrusted([]peer.ID{ids[1], ids[2]})
		trusted(false, false, true, true) // ids[1] was taken back by hand
		b.SetTrusted([]peer.ID{ids[0]})
		trusted(true, false, false, true) // ids[2] had become the configuration's
		b.stop()
		b = w.node(options{ip: "1.2.0.1", key: key, cfg: dialer.Config{Trusted: ids[:1], File: file}})
		defer b.stop()
		trusted(true, false, false, true)
	})
}
