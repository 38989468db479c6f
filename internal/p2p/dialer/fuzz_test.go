package dialer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	ma "github.com/multiformats/go-multiaddr"
)

// FuzzSaved: the file of static peers is read whole or refused.
func FuzzSaved(f *testing.F) {
	f.Add([]byte(`{"pins":{"a:1":"12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	path := filepath.Join(f.TempDir(), "peers.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := load(path)
		if err != nil {
			return
		}
		if s.Pins == nil {
			t.Fatal("no pins to write to")
		}
		if err := s.write(path); err != nil {
			t.Fatal(err)
		}
		if again, err := load(path); err != nil || len(again.Pins) != len(s.Pins) {
			t.Fatalf("%d pins became %d: %v", len(s.Pins), len(again.Pins), err)
		}
	})
}

// FuzzDNSAddr: whatever the TXT records of a name are, what they lead to is
// within the bounds, names its peer, and is none of our own.
func FuzzDNSAddr(f *testing.F) {
	const id = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
	for _, s := range []string{
		"dnsaddr=/ip4/203.0.113.7/tcp/9906/p2p/" + id, "dnsaddr=/dnsaddr/n/p2p/" + id + "\ndnsaddr=/dnsaddr/N.\ndnsaddr=/dnsaddr/m",
		"dnsaddr=/dns4/x/udp/1/quic-v1/p2p/" + id + "\nv=spf1\ndnsaddr=", "dnsaddr=/ip4/203.0.113.7/tcp/1/p2p/" + id + "/p2p-circuit", "dnsaddr=/p2p/" + id, "", "\x00\n\xff",
	} {
		f.Add("/dnsaddr/n", s)
		f.Add("/dnsaddr/n/p2p/"+id, s)
	}
	f.Add("/dnsaddr/n", strings.Repeat("dnsaddr=/dnsaddr/n\n", 100)) // round and round
	f.Add("/dnsaddr/n", "*")                                         // another name each time
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close() })
	f.Fuzz(func(t *testing.T, name, records string) {
		it, err := parseItem(name, 9906)
		if err != nil || firstCode(it.addr) != ma.P_DNSADDR {
			return
		}
		asked := 0
		d := &Dialer{host: h, cfg: Config{TXT: func(_ context.Context, name string) (texts []string, err error) {
			asked++
			if records == "*" {
				for i := range 100 {
					texts = append(texts, fmt.Sprintf("dnsaddr=/dnsaddr/%d.%d", asked, i))
				}
				return texts, nil
			}
			return strings.Split(records, "\n"), nil
		}}}
		targets, err := d.lookDNSAddr(t.Context(), it)
		if asked > maxNames || err != nil && len(targets) > 0 {
			t.Fatalf("%d names were asked for, %d targets: %v", asked, len(targets), err)
		}
		addrs := 0
		for _, at := range targets {
			addrs += len(at.addrs)
			if at.id == "" || at.id == h.ID() || it.id != "" && at.id != it.id || at.id.Validate() != nil {
				t.Fatalf("a target for %q", at.id)
			}
			for _, a := range at.addrs {
				if len(a) == 0 || firstCode(a) == ma.P_DNSADDR {
					t.Fatalf("a target at %s", a)
				}
			}
		}
		if addrs > maxTargets {
			t.Fatalf("%d addresses", addrs)
		}
	})
}
