package addrbook

import (
	"bytes"
	"net/netip"
	"testing"
)

// FuzzASMap: a map that is taken answers for every address.
func FuzzASMap(f *testing.F) {
	f.Add([]byte("192.0.2.0/24 AS64500\n2001:db8::/32 64501 # comment\n"))
	f.Add([]byte("0.0.0.0/0 AS0\n\n#\n"))
	f.Add([]byte("192.0.2.0/24 AS64500\n192.0.2.1/24 AS64500\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readASMap(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, ip := range []string{"192.0.2.1", "8.8.8.8", "2001:db8::1", "10.0.0.1"} {
			if m.group(netip.MustParseAddr(ip)) == "" {
				t.Fatalf("%s has no group", ip)
			}
		}
	})
}
