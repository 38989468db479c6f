package parley

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// What a name led to is forgotten only for an answer that lacks it.
func TestLookUpName(t *testing.T) {
	const gone, away = "gone", "away"
	for _, tt := range []struct{ before, ip4, ip6, want, fault string }{
		{"", "8.8.8.8", gone, "8.8.8.8", ""},
		{"", gone, "2606::7", "2606::7", ""},
		{"", "8.8.8.8 8.8.4.4 8.8.8.8", "2606::7", "8.8.4.4 8.8.8.8 2606::7", ""},
		{"8.8.8.8 2606::7", "8.8.4.4", "2606::7", "8.8.4.4 2606::7", ""},
		{"8.8.8.8 2606::7", "8.8.4.4", away, "8.8.4.4 2606::7", ""},
		{"8.8.8.8 2606::7", away, "2606::8", "8.8.8.8 2606::8", ""},
		{"8.8.8.8 2606::7", "8.8.8.8", gone, "8.8.8.8", ""},
		{"8.8.8.8 2606::7", gone, gone, "8.8.8.8 2606::7", "it has no address"},
		{"8.8.8.8 2606::7", gone, away, "8.8.8.8 2606::7", "server is away"},
		{"", away, away, "", "server is away"},
		{"", "", "", "", "it has no address"},
		{"", "::ffff:8.8.8.8", "", "8.8.8.8", ""},
	} {
		resolve := func(_ context.Context, family, name string) ([]netip.Addr, error) {
			switch text := map[string]string{"ip4": tt.ip4, "ip6": tt.ip6}[family]; text {
			case gone:
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			case away:
				return nil, errors.New("the server is away")
			default:
				return addrsOf(text), nil
			}
		}
		got, err := lookUpName(t.Context(), resolve, "node.example.com", addrsOf(tt.before))
		if text := strings.Trim(fmt.Sprint(got), "[]"); text != tt.want {
			t.Errorf("%+v: %s", tt, text)
		}
		if (err != nil) != (tt.fault != "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	many := func(_ context.Context, family, _ string) (ips []netip.Addr, _ error) {
		for i := range 100 {
			ips = append(ips, netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}))
		}
		return ips, nil
	}
	if got, err := lookUpName(t.Context(), many, "x", nil); err != nil || len(got) != maxNameIPs {
		t.Errorf("of a hundred addresses %d are told, %v", len(got), err)
	}
}

func addrsOf(text string) (ips []netip.Addr) {
	for ip := range strings.FieldsSeq(text) {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips
}
