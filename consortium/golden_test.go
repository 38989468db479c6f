package consortium

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

func golden(t *testing.T, name string, have []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, have, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s differs: a change of these bytes breaks every chain that exists", path)
	}
}

func TestGoldenVectors(t *testing.T) {
	b, err := json.MarshalIndent(vectors(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "vectors.json", append(b, '\n'))
}

func TestGoldenGenesisJSON(t *testing.T) {
	b, err := json.MarshalIndent(sampleGenesis(2), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "genesis.json", append(b, '\n'))
}
