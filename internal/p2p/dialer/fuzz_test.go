package dialer

import (
	"os"
	"path/filepath"
	"testing"
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
