package reputation

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// FuzzBanLine: a line of a ban list is a ban within the rules, nothing, or one
// error.
func FuzzBanLine(f *testing.F) {
	b, _ := openBans(f, BansConfig{})
	for _, s := range []string{
		"203.0.113.0/24 # scanner", "# a comment", "", "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", "0.0.0.0/0", "2001:db8::/32",
		`{"target":"203.0.113.0/24","until":null}`, `{"target":"203.0.113.7","until":"2126-01-02T03:04:05Z","note":"x"}`, `{"target":`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, _, ok, err := b.line(text, "somebody")
		if ok && err != nil {
			t.Fatalf("a ban and an error: %v", err)
		}
		if !ok {
			return
		}
		if len(r.note) > maxNote {
			t.Fatalf("a note of %d bytes", len(r.note))
		}
		if again, err := ParseTarget(r.target.String()); err != nil || again != r.target {
			t.Fatalf("target %s is read as %s: %v", r.target, again, err)
		}
	})
}

// FuzzFiles: whatever stands in the files of points and of the journal, a node
// starts with what can be read, within its bounds.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`[{"peer":"12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp","points":50,"credit":-7}]`))
	f.Add([]byte(`{"ops":[]}` + "\n" + `{"row":{"target":"203.0.113.7"}}`))
	f.Add([]byte(`[{"points":1e99}]`))
	f.Add([]byte{})
	file := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		book, err := New(Config{File: file}, nil, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		for p := range book.peers {
			if s := book.Score(p); s.Points < 0 || s.Points > maxPoints || s.Credit < 0 || s.Credit > maxCredit {
				t.Fatalf("%+v", s)
			}
		}
		if len(book.peers) > maxPeers {
			t.Fatalf("%d peers", len(book.peers))
		}
		j := &journal{path: file}
		if _, err := j.read(); err != nil && len(b) < 64<<10 {
			t.Fatal(err)
		}
	})
}
