package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// TestNodesFindEachOther starts nodes that know one of them alone, two of them
// by its name. All find all, and do so again without it, and after the whole
// network was down.
func TestNodesFindEachOther(t *testing.T) {
	t.Parallel()
	const count = 6
	w := newWorld(t, count, nil, func(i int, file string, c map[string]any) {
		switch chain := c["consortium"].(map[string]any); i {
		case 2:
			chain["genesis_file"] = file
		case 5, 6:
			delete(chain, "genesis_hash") // trusts whom its configuration names
		}
	})
	boot := w.nodes[1] // follows, so that the chain goes on without it
	for i, n := range w.nodes {
		w.know(n, boot, i%2 == 1)
	}
	w.start(boot)
	began := time.Now()
	w.start(w.nodes[0])
	w.start(w.nodes[2:]...)
	w.wait(soon, "all find all", func() (bool, string) { return w.meshed(w.nodes) })
	t.Logf("%d nodes, each of which knew one: all connected with all after %s", count, time.Since(began).Round(100*time.Millisecond))
	found := map[string]float64{}
	for _, n := range w.nodes {
		for _, kind := range []string{"bootstrap", "dns", "dht", "pex", "inbound"} {
			found[kind] += w.metric(n, fmt.Sprintf("parley_discovery_found_total{source=%q}", kind))
		}
	}
	t.Logf("new to the books by who told of them: %v", found)
	if found["dht"]+found["pex"] == 0 || found["dns"] == 0 || found["bootstrap"] == 0 {
		t.Errorf("found %v", found)
	}

	rest := append([]*node{w.nodes[0]}, w.nodes[2:]...)
	for _, n := range rest {
		w.wait(soon, "the book of "+n.name+" is on disk", func() (bool, string) {
			_, err := os.Stat(filepath.Join(n.dir, "addrbook", "book.bin"))
			return err == nil, fmt.Sprint(err)
		})
	}

	// Gone for good, and with it all that the configuration knows.
	boot.kill()
	last := w.nodes[count-1]
	last.kill()
	began = time.Now()
	w.start(last)
	w.wait(soon, "back by its book", func() (bool, string) { return w.meshed(rest) })
	t.Logf("killed, and started without its bootstrap peer: back with all after %s", time.Since(began).Round(100*time.Millisecond))

	for _, n := range rest {
		n.kill()
	}
	began = time.Now()
	w.start(rest...)
	w.wait(soon, "all are back", func() (bool, string) { return w.meshed(rest) })
	t.Logf("all killed, and started without their bootstrap peer: all with all after %s", time.Since(began).Round(100*time.Millisecond))
}

// know writes the one node that n knows into its configuration: by an address
// with the id, or by a name that its resolver knows.
func (w *world) know(n, boot *node, byName bool) {
	w.t.Helper()
	if n == boot {
		return
	}
	line := fmt.Sprintf("bootstrap_peers = [%q]", w.full(boot, "tcp"))
	b, err := os.ReadFile(n.config)
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(b)
	if byName {
		dir := filepath.Join("/etc/netns", n.space) // ip netns exec puts what is there in the place of /etc
		if err := os.MkdirAll(dir, 0o755); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				w.t.Error(err)
			}
			_ = os.Remove("/etc/netns") // where nobody else has anything there
		})
		if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(placeOf(boot.index)+" seeds.parley.example\n"), 0o644); err != nil {
			w.t.Fatal(err)
		}
		text = strings.Replace(text, "[discovery]\n", "[discovery]\ndns = [\"seeds.parley.example:8080\"]\n", 1)
	} else {
		text = strings.Replace(text, "[p2p]\n", "[p2p]\n"+line+"\n", 1)
	}
	if text == string(b) {
		w.t.Fatalf("no section in %s", b)
	}
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// meshed reports whether each of nodes is ready with each other one.
func (w *world) meshed(nodes []*node) (bool, string) {
	lack := ""
	for _, n := range nodes {
		have := map[string]bool{}
		for _, p := range w.peers(n) {
			if p.Ready {
				have[p.Name] = true
			}
		}
		for _, o := range nodes {
			if o != n && !have[o.name] {
				lack += fmt.Sprintf(" %s-%s", n.name, o.name)
			}
		}
	}
	if lack != "" {
		return false, "not connected:" + lack
	}
	var v parley.Status
	for _, n := range nodes {
		if _, err := n.get(w.t.Context(), "status", &v); err != nil {
			return false, err.Error()
		}
	}
	return true, ""
}
