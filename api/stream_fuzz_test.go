package api

import (
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// FuzzObey: whatever a client says on the event stream, its filter stays within
// the bounds and lets no log in.
func FuzzObey(f *testing.F) {
	for _, s := range []string{
		`{"subscribe":["peer.*","block.stored"]}`, `{"unsubscribe":["log.*"]}`, `{"ping":{"a":1}}`, `{"subscribe":["[",""]}`, `{"subscribe":["log.*"]}`,
		`{"subscribe":[]}`, `{"ping":1,"subscribe":["*"]}`, `[]`, `{"subscribe":"*"}`, "\xff",
	} {
		f.Add([]byte(s), []byte(`{"subscribe":["*"]}`))
	}
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		list, err := newFilter("")
		if err != nil {
			t.Fatal(err)
		}
		q := newQueue("ws", list, m)
		if q.obey(one) == nil {
			_ = q.obey(two)
		}
		if len(q.filter.rules) > maxGlobs+1 || q.filter.match("log.line") {
			t.Fatalf("%+v", q.filter)
		}
	})
}

// FuzzToken: no text is a token but one that a secret of this node has signed.
func FuzzToken(f *testing.F) {
	secret, other := make([]byte, minSecret), make([]byte, minSecret)
	other[0] = 1
	sign := func(c claims, by []byte) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(by)
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	signed := map[string]bool{}
	for _, c := range []claims{{Scope: "admin"}, {Scope: "read"}, {Role: "admin"}, {Scope: "x"}} {
		c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Hour))
		good := sign(c, secret)
		signed[good] = true
		f.Add(good)
		f.Add(sign(c, other))
	}
	f.Add("eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImFkbWluIiwiZXhwIjo5OTk5OTk5OTk5fQ.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseToken([][]byte{secret}, text); err == nil && !signed[text] {
			t.Fatalf("%q is a token of %+v", text, c)
		}
		_, _ = ReadToken(text)
	})
}
