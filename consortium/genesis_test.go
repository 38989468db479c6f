package consortium

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewGenesis(t *testing.T) {
	now := time.UnixMilli(1_795_132_800_123)
	g, err := NewGenesis("", []Validator{{Key: pub(1)}, {Key: pub(2)}}, []PublicKey{pub(1)}, DefaultParams(), now)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^c-[0-9a-f]{8}$`).MatchString(g.ChainID) {
		t.Errorf("chain id %q", g.ChainID)
	}
	if g.Time != 1_795_132_800_123 || g.Config.NextID != 3 || g.Config.Validators[1].ID != 2 {
		t.Errorf("genesis %+v", g)
	}
	if g.Net() != g.Hash().String()[:8] {
		t.Errorf("net %s of %s", g.Net(), g.Hash())
	}
	other, err := NewGenesis(g.ChainID, g.Config.Validators, g.Config.Admins, DefaultParams(), now)
	if err != nil {
		t.Fatal(err)
	}
	if other.Hash() == g.Hash() {
		t.Error("two chains have one hash")
	}
	_, err = NewGenesis("Main Net", []Validator{{Key: pub(1)}}, []PublicKey{pub(1)}, DefaultParams(), now)
	wantError(t, err, `chain id "Main Net"`)
	_, err = NewGenesis("main", nil, []PublicKey{pub(1)}, DefaultParams(), now)
	wantError(t, err, "0 validators")
}

func TestGenesisLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Genesis)
		want string
	}{
		{"as it is", func(*Genesis) {}, ""},
		{"chain id of two", func(g *Genesis) { g.ChainID = "ab" }, "chain id"},
		{"chain id of three", func(g *Genesis) { g.ChainID = "a-1" }, ""},
		{"chain id of 48", func(g *Genesis) { g.ChainID = strings.Repeat("z", 48) }, ""},
		{"chain id of 49", func(g *Genesis) { g.ChainID = strings.Repeat("z", 49) }, "chain id"},
		{"chain id in capitals", func(g *Genesis) { g.ChainID = "Main" }, "chain id"},
		{"chain id with underscore inside", func(g *Genesis) { g.ChainID = "a_b" }, "chain id"},
		{"time at its limit", func(g *Genesis) { g.Time = 1<<53 - 1 }, ""},
		{"time over it", func(g *Genesis) { g.Time = 1 << 53 }, "time"},
		{"epoch 1", func(g *Genesis) { g.Config.Epoch = 1 }, "epoch 1"},
		{"config", func(g *Genesis) { g.Config.Threshold = 0 }, "threshold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := sampleGenesis(4)
			c.edit(g)
			wantError(t, g.Check(), c.want)
			_, err := DecodeGenesis(g.Encode())
			wantError(t, err, c.want)
		})
	}
	raw := sampleGenesis(2).Encode()
	for n := range raw {
		if _, err := DecodeGenesis(raw[:n]); err == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	_, err := DecodeGenesis(append(raw, 0))
	wantError(t, err, "left over")
	raw[0] = 2
	_, err = DecodeGenesis(raw)
	wantError(t, err, "version 2")
}

func TestGenesisRoundTrip(t *testing.T) {
	g := sampleGenesis(4)
	g.Config.AuthorPolicy, g.Config.Authors = Listed, sortedKeys(2)
	got, err := DecodeGenesis(g.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g, got); d != "" {
		t.Error("binary:", d)
	}
	view, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var read Genesis
	if err := json.Unmarshal(view, &read); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g, &read); d != "" {
		t.Error("JSON:", d)
	}
}

func TestGenesisJSON(t *testing.T) {
	g := sampleGenesis(2)
	g.Config.Authors, g.Config.Validators[0].Addresses = nil, nil
	b, err := json.MarshalIndent(g, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	view := string(b)
	if strings.Contains(view, "null") {
		t.Errorf("null in %s", view)
	}
	hash := g.Hash().String()
	edit := func(from, to string) string {
		if !strings.Contains(view, from) {
			t.Fatalf("%q is not in %s", from, view)
		}
		return strings.Replace(view, from, to, 1)
	}
	for _, c := range []struct{ name, json, want string }{
		{"as it is", view, ""},
		{"without spaces", strings.NewReplacer("\n", "", "\t", "").Replace(view), ""},
		{"hash without prefix", edit("sha256:", ""), ""},
		{"without hash", edit(",\n\t\"hash\": \"sha256:"+hash+`"`, ""), ""},
		{"other hash", edit("sha256:"+hash, "sha256:"+strings.Repeat("0", 64)), strings.Repeat("0", 64)},
		{"other content, wanted", edit(`"threshold": 2`, `"threshold": 1`), "the file says hash sha256:" + hash},
		{"hash no hex", edit("sha256:"+hash, "sha256:12"), "hash"},
		{"version", edit(`"version": 1`, `"version": 2`), "version 2"},
		{"salt short", edit(`"salt": "5b`, `"salt": "`), "salt"},
		{"salt no hex", edit(`"salt": "5b`, `"salt": "xx`), "salt"},
		{"policy", edit(`"open"`, `"closed"`), `author_policy "closed"`},
		{"unknown field", edit(`"threshold"`, `"treshold"`), "treshold"},
		{"key", edit("ed25519:", "rsa:"), "key"},
		{"negative", edit(`"next_id": 3`, `"next_id": -3`), "next_id"},
		{"two values", view + "{}", "more than one"},
		{"too long", view + strings.Repeat(" ", 1<<20), "over the limit"},
		{"nothing", "", "EOF"},
		{"invalid", edit(`"threshold": 2`, `"threshold": 0`), "threshold 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseGenesisJSON([]byte(c.json))
			wantError(t, err, c.want)
			if err == nil && got.Hash() != g.Hash() {
				t.Errorf("hash %s, want %s", got.Hash(), hash)
			}
		})
	}
	other := *g
	other.Config.Threshold = 1
	_, err = ParseGenesisJSON([]byte(edit(`"threshold": 2`, `"threshold": 1`)))
	wantError(t, err, "its content has sha256:"+other.Hash().String())
}
