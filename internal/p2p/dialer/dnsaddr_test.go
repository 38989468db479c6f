package dialer

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
)

// Whoever owns a name has the DNS asked a few times, whatever it answers, and
// what one name says of two peers is heard for each.
func TestDNSAddrIsBounded(t *testing.T) {
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	const one, two = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
	look := func(say func(name string, asked int) []string) (targets []target, asked int, err error) {
		d := &Dialer{host: h, cfg: Config{TXT: func(_ context.Context, name string) ([]string, error) {
			asked++
			return say(strings.TrimPrefix(name, "_dnsaddr."), asked), nil
		}}}
		it, err := parseItem("/dnsaddr/n", 9906)
		if err != nil {
			t.Fatal(err)
		}
		targets, err = d.lookDNSAddr(t.Context(), it)
		return targets, asked, err
	}
	if _, asked, err := look(func(_ string, asked int) (list []string) {
		for i := range 64 {
			list = append(list, fmt.Sprintf("dnsaddr=/dnsaddr/%d.%d", asked, i))
		}
		return list
	}); asked != maxNames || err == nil {
		t.Errorf("names without end: %d were asked for: %v", asked, err)
	}
	if targets, asked, _ := look(func(string, int) (list []string) {
		for range 64 {
			list = append(list, "dnsaddr=/dnsaddr/n")
		}
		return append(list, "dnsaddr=/ip4/203.0.113.7/tcp/1/p2p/"+one)
	}); asked != 1 || len(targets) > 1 {
		t.Errorf("round and round: %d were asked for, %d targets", asked, len(targets))
	}
	targets, asked, err := look(func(name string, _ int) []string {
		if name == "n" {
			return []string{"dnsaddr=/dnsaddr/m/p2p/" + one, "dnsaddr=/dnsaddr/M/p2p/" + two, "dnsaddr=/ip4/203.0.113.9/tcp/1/p2p/" + one + strings.Repeat("/http", 200)}
		}
		return []string{"dnsaddr=/ip4/203.0.113.7/tcp/1/p2p/" + one, "dnsaddr=/ip4/203.0.113.8/tcp/1/p2p/" + two}
	})
	if err != nil || asked != 2 || len(targets) != 2 || len(targets[0].addrs) != 1 || len(targets[1].addrs) != 1 {
		t.Errorf("one name of two peers: %+v, %d were asked for: %v", targets, asked, err)
	}
}
