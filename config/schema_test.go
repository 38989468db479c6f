package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gotoml "github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("parley.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("parley.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judge validates a TOML file.
func judge(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var file map[string]any
	if err := gotoml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// The schema and the loader agree on files with right and with wrong values.
func TestSchema(t *testing.T) {
	s := compileSchema(t)
	for _, file := range []string{
		"", "network = \"sidecar\"", "[p2p]\nport = 9907\nstatic_peers = [\"node1:8080\"]", "[bans]\nduration = \"1h30m\"",
		"[consortium]\nmempool_bytes = 2097152", "[consortium]\nmempool_bytes = \"2MiB\"", "[api]\nrate = \"50/s\"", "[telemetry]\nsample_ratio = 1",
		"network = \"sidecar\"\n[sidecar]\ntopics = [{ name = \"tx\", max = \"64KiB\", validate = true }, \"block:1KiB\"]",
		"[[sink]]\nkind = \"nats\"\nurl = \"nats://127.0.0.1:4222\"\ntypes = [\"peer.*\"]",
		// wrong ones
		"networks = \"x\"", "[p2p]\nprot = 1", "[p2p]\nport = \"9907\"", "[p2p]\nstatic_peers = \"node1\"", "[bans]\nduration = 5", "[bans]\nduration = \"5\"",
		"[bans]\nthreshold = 1", "[consortium]\nmempool_bytes = 1", "[consortium]\nmempool_bytes = \"2 MB\"", "[api]\nrate = 50", "[api]\npublic_read = \"yes\"",
		"[log]\nformat = \"xml\"", "[[sink]]\nkind = \"redis\"\nurl = \"x\"", "[[sink]]\nkind = \"nats\"", "[api]\njwt_secret = \"0123456789012345678901234567890123456789\"",
		"network = \"sidecar\"\n[sidecar]\ntopics = [{ nam = \"tx\" }]",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "parley.toml"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		_, loads := Load(LoadArgs{File: "parley.toml", Dir: dir, Flags: map[string]string{"data_dir": dir}, Hostname: "h"})
		if fits := judge(t, s, file); (fits == nil) != (loads == nil) {
			t.Errorf("%q: the schema says %v, the loader %v", file, fits, loads)
		}
	}
}

// What is the default may be written out.
func TestSchemaTakesDefaults(t *testing.T) {
	s := compileSchema(t)
	var doc map[string]any
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	var defaults func(o map[string]any) any
	defaults = func(o map[string]any) any {
		properties, is := o["properties"].(map[string]any)
		if !is {
			n++
			return o["default"]
		}
		values := map[string]any{}
		for name, p := range properties {
			if v := defaults(p.(map[string]any)); v != nil {
				values[name] = v
			}
		}
		return values
	}
	values := defaults(doc)
	if err := s.Validate(values); err != nil {
		t.Error(err)
	}
	want := 0
	for _, k := range Keys() {
		if k.Type != "secret" {
			want++
		}
	}
	if n != want {
		t.Errorf("%d keys, want %d", n, want)
	}
	if strings.Contains(string(b), "jwt_secret\"") {
		t.Error("a secret has a place in a file")
	}
}
