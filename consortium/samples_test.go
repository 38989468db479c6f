package consortium

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// key is private key n of the tests, 0 to 255.
func key(n int) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(n)}, ed25519.SeedSize))
}

func pub(n int) PublicKey { return PublicKeyOf(key(n)) }

func sortedKeys(n int) []PublicKey {
	keys := make([]PublicKey, n)
	for i := range keys {
		keys[i] = PublicKey{byte(i >> 8), byte(i), 1}
	}
	return keys
}

// sampleConfig has n validators with the keys 1 … n; keys 1 to 3, at most n of
// them, are admins and two of them must approve, if there are two.
func sampleConfig(n int) *Config {
	c := &Config{NextID: uint64(n) + 1, Threshold: uint8(min(n, 2)), Params: DefaultParams(), Authors: []PublicKey{}}
	for i := 1; i <= n; i++ {
		c.Validators = append(c.Validators, Validator{
			ID: uint64(i), Key: pub(i), Name: fmt.Sprintf("node%d", i),
			Addresses: []string{fmt.Sprintf("/dns4/node%d/tcp/9906", i)},
		})
		if i <= 3 {
			c.Admins = append(c.Admins, pub(i))
		}
	}
	return c
}

func sampleGenesis(n int) *Genesis {
	return &Genesis{ChainID: "c-7f3a91d2", Time: 1_795_132_800_000, Salt: [16]byte{0x5b, 0xe0, 15: 9}, Config: *sampleConfig(n)}
}

func sampleRecord(genesis chain.Hash, nonce uint64, body string) *Record {
	r := &Record{Nonce: nonce, Subject: "pkg:deb/debian/curl@8.5.0", MediaType: "application/json", Body: []byte(body)}
	r.Sign(key(9), genesis)
	return r
}

// sampleBlock is a certified block of n records on the genesis of 4 validators.
func sampleBlock(n int) (*Block, *ValidatorSet) {
	g := sampleGenesis(4)
	var records [][]byte
	for i := range n {
		records = append(records, sampleRecord(g.Hash(), uint64(i), fmt.Sprintf(`{"n":%d}`, i)).Encode())
	}
	body, set := Body(Pack(records)), g.Config.Set()
	h := &Header{
		Genesis: g.Hash(), Height: 1, Prev: g.Hash(), Time: g.Time + 1, Set: set.Hash(), NextSet: set.Hash(), Proposer: 1,
		Records: uint32(n), Subtrees: uint16(len(body)), BodyBytes: uint32(body.Size()),
		Root: BlockRoot(body.SubtreeIDs()), Metadata: []byte{8, 1, 16, 1},
	}
	return &Block{Header: h, Certificate: votes(h, 1, 2, 4), Body: body}, set
}

// sampleView is a view after that of the proposal.
const sampleView = 2

func votes(h *Header, validators ...int) Certificate {
	c := Certificate{View: sampleView}
	for _, v := range validators {
		c.Votes = append(c.Votes, Vote{Validator: uint64(v), Sig: SignVote(key(v), h.Genesis, h.Hash(), h.Height, c.View)})
	}
	return c
}

// sampleChange adds validator n+1 to sampleConfig(n) and is approved by admins.
func sampleChange(n int, edit func(*Config), admins ...int) *ConfigChange {
	c := sampleConfig(n)
	c.Epoch = 1
	c.NextID++
	c.Validators = append(c.Validators, Validator{ID: uint64(n) + 1, Key: pub(n + 1), Addresses: []string{}})
	if edit != nil {
		edit(c)
	}
	change := &ConfigChange{Config: *c}
	for _, a := range admins {
		change.Approvals = append(change.Approvals, Approve(key(a), sampleGenesis(n).Hash(), c))
	}
	return change
}

// vector is one value in all forms: what another language must reproduce.
type vector struct {
	Name   string `json:"name"`
	Hex    string `json:"hex"`
	ID     string `json:"id,omitempty"` // hash or id of the type, where it has one
	Detail string `json:"detail,omitempty"`
	raw    []byte
}

func vectors() []vector {
	var out []vector
	add := func(name string, raw []byte, id chain.Hash, detail string) {
		v := vector{Name: name, Hex: fmt.Sprintf("%x", raw), Detail: detail, raw: raw}
		if !id.IsZero() {
			v.ID = id.String()
		}
		out = append(out, v)
	}
	for _, n := range []int{1, 4} {
		g := sampleGenesis(n)
		add(fmt.Sprintf("genesis/%d", n), g.Encode(), g.Hash(), "id: genesis hash")
		add(fmt.Sprintf("config/%d", n), g.Config.Encode(), g.Config.Set().Hash(), "id: validator set hash")
	}
	listed := sampleConfig(7)
	listed.Epoch, listed.AuthorPolicy, listed.Authors = 3, Listed, sortedKeys(3)
	add("config/listed", listed.Encode(), listed.Set().Hash(), "id: validator set hash")

	genesis := sampleGenesis(4).Hash()
	r := sampleRecord(genesis, 1, `{"n":1}`)
	add("record/small", r.Encode(), RecordID(r.Encode()), "id: record id; seed of the author's key 32 × 09")
	long := &Record{NotAfter: MaxNumber, Nonce: 1<<64 - 1, Subject: strings.Repeat("ü", MaxSubject/2), MediaType: "a/b"}
	long.Sign(key(10), genesis)
	add("record/empty body", long.Encode(), RecordID(long.Encode()), "id: record id")
	change := sampleChange(4, nil, 1, 2)
	add("change", change.Encode(), chain.Hash{}, "")
	config := &Record{Kind: KindConfig, Subject: SubjectConfig, MediaType: MediaTypeConfig, Body: change.Encode()}
	config.Sign(key(1), genesis)
	add("record/config", config.Encode(), RecordID(config.Encode()), "id: record id")

	for _, n := range []int{0, 1, 5, 260} {
		b, _ := sampleBlock(n)
		add(fmt.Sprintf("header/%d", n), b.Header.Encode(), b.Header.Hash(), "id: header hash")
		add(fmt.Sprintf("certificate/%d", n), b.Certificate.Encode(), chain.Hash{}, "")
		if n <= 5 {
			add(fmt.Sprintf("body/%d", n), EncodeBody(b.Body), b.Header.Root, "id: block root")
		}
	}
	for n := 1; n <= 9; n++ {
		ids := make([]chain.Hash, n)
		for i := range ids {
			ids[i] = sha256.Sum256([]byte{byte(i)})
		}
		raw := slices.Concat(hashBytes(ids)...)
		add(fmt.Sprintf("subtree/%d", n), raw, SubtreeID(ids), "hex: record ids in a row; id: subtree id")
		add(fmt.Sprintf("root/%d", n), raw, BlockRoot(ids), "hex: subtree ids in a row; id: block root")
	}
	return out
}

func hashBytes(hs []chain.Hash) [][]byte {
	out := make([][]byte, len(hs))
	for i := range hs {
		out[i] = hs[i][:]
	}
	return out
}

// seeds are the vectors whose name begins with prefix.
func seeds(prefix string) [][]byte {
	var out [][]byte
	for _, v := range vectors() {
		if strings.HasPrefix(v.Name, prefix) {
			out = append(out, v.raw)
		}
	}
	return out
}

// wantReason fails the test unless err is a *RecordError with reason; "" is
// no error at all.
func wantReason(t *testing.T, err error, reason Reason) {
	t.Helper()
	if reason == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	if re, ok := errors.AsType[*RecordError](err); !ok || re.Reason != reason {
		t.Fatalf("error %v, want reason %s", err, reason)
	}
}

// wantError fails the test unless err tells text; "" is no error at all.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if text == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want one with %q", err, text)
	}
}
