package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestFraud has four validators sign two blocks of one height.
func TestFraud(t *testing.T) {
	c := ledgertest.New(t, 4)
	one, two := c.Build(c.Record("a", nil)), c.Build(c.Record("b", nil), c.Record("c", nil))
	one.Certificate.Votes = one.Certificate.Votes[:3]
	two.Certificate.Votes = two.Certificate.Votes[1:]
	config := c.Config()
	dir := t.TempDir()
	write := func(name string, v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	proof := func(b *consortium.Block) *consortium.Proof {
		t.Helper()
		in, err := consortium.Include(b, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return consortium.NewProof(c.Genesis(), in, config.Set(), nil)
	}
	block := func(b *consortium.Block) parley.Block {
		return parley.Block{Raw: parley.BlockRaw{Header: hex.EncodeToString(b.Header.Encode()), Certificate: hex.EncodeToString(b.Certificate.Encode())}}
	}
	proofA, proofB := write("pa.json", proof(one)), write("pb.json", proof(two))
	blockA, blockB := write("ba.json", block(one)), write("bb.json", block(two))

	var validators list[parley.Validator]
	for _, v := range config.Validators {
		id, err := v.Key.PeerID()
		if err != nil {
			t.Fatal(err)
		}
		validators.Items = append(validators.Items, parley.Validator{ID: v.ID, Key: v.Key, Name: v.Name, Peer: id})
	}
	behind := false // the node has no block 1
	record := one.Body[0].IDs()[0]
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/v1/chain/validators":
			_ = json.NewEncoder(w).Encode(validators)
		case behind:
			http.Error(w, `{"title":"Not found","code":"PLY-006","detail":"no block 1"}`, http.StatusNotFound)
		case r.URL.Path == "/api/v1/chain/blocks/1/records":
			_ = json.NewEncoder(w).Encode(list[parley.Record]{Items: []parley.Record{{ID: record}}})
		case r.URL.Path == "/api/v1/records/"+record.String()+"/proof":
			_ = json.NewEncoder(w).Encode(proof(one))
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}))
	defer node.Close()
	for _, test := range []struct{ a, b, node string }{
		{proofA, proofB, "http://127.0.0.1:1"}, {proofA, blockB, "http://127.0.0.1:1"}, {blockA, proofB, "http://127.0.0.1:1"}, {blockA, blockB, node.URL},
	} {
		var out bytes.Buffer
		g := &globals{output: "table", node: test.node, timeout: 10 * time.Second, out: &out, err: &out}
		if err := g.fraud(t.Context(), test.a, test.b); err != nil {
			t.Errorf("%s %s: %v", test.a, test.b, err)
		}
		for _, want := range []string{"two certified blocks of height 1", "validator 2 node2 ed25519:", "validator 3 node3 ed25519:"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s %s: no %q in %s", test.a, test.b, want, out.String())
			}
		}
		for _, no := range []string{"node1", "node4"} {
			if strings.Contains(out.String(), no) {
				t.Errorf("%s %s: %s signed one block alone: %s", test.a, test.b, no, out.String())
			}
		}
	}
	// The validators have changed since: the node proves those of that height.
	now := *config
	now.Validators = now.Validators[:3]
	validators.Items = validators.Items[:3]
	var out bytes.Buffer
	g := &globals{output: "table", node: node.URL, timeout: 10 * time.Second, out: &out, err: &bytes.Buffer{}}
	if err := g.fraud(t.Context(), blockA, blockB); err != nil || strings.Count(out.String(), "signed both") != 2 {
		t.Errorf("after a change of the validators: %v, %s", err, out.String())
	}
	behind = true
	want := "block 1 names the validators " + config.Set().Hash().Short() + ", the node's are " + now.Set().Hash().Short() + " now, and it has no block 1"
	if err := g.fraud(t.Context(), blockA, blockB); exitCode(t.Context(), err) != exitCheck || !strings.Contains(err.Error(), want) {
		t.Errorf("set unknown: %v, want %q", err, want)
	}
	behind = false
	header := *one.Header // by others, of a set that the node did not have
	header.Set = now.Set().Hash()
	forged := &consortium.Block{Header: &header, Certificate: one.Certificate}
	validators.Items = nil
	if err := g.fraud(t.Context(), write("forged.json", block(forged)), blockB); exitCode(t.Context(), err) != exitCheck ||
		!strings.Contains(err.Error(), "the node's were "+config.Set().Hash().Short()+" at that height") {
		t.Errorf("another set: %v", err)
	}
	two.Certificate.Votes = two.Certificate.Votes[1:]
	if err := g.fraud(t.Context(), proofA, write("cut.json", block(two))); exitCode(t.Context(), err) != exitCheck || !strings.Contains(err.Error(), "2 votes of 4") {
		t.Errorf("no quorum: %v", err)
	}
}
