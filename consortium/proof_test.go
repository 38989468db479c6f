package consortium

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// proofChain makes blocks one after the other, with changes of the set.
type proofChain struct {
	genesis *Genesis
	config  *Config
	prev    *Header
	trail   []Inclusion
}

func newProofChain() *proofChain {
	g := sampleGenesis(4)
	return &proofChain{genesis: g, config: &g.Config}
}

func (c *proofChain) next(raws ...[]byte) *Block {
	hash := c.genesis.Hash()
	body, set := Body(Pack(raws)), c.config.Set()
	h := &Header{
		Genesis: hash, Height: 1, Prev: hash, Time: c.genesis.Time + 1, Epoch: c.config.Epoch, Set: set.Hash(), NextSet: set.Hash(), Proposer: 1,
		Records: uint32(len(raws)), Subtrees: uint16(len(body)), BodyBytes: uint32(body.Size()), Root: BlockRoot(body.SubtreeIDs()), Metadata: []byte{8, 1},
	}
	if c.prev != nil {
		h.Height, h.Prev, h.Time = c.prev.Height+1, c.prev.Hash(), c.prev.Time+1
	}
	config := c.config
	if len(raws) == 1 {
		if r, err := DecodeRecord(raws[0]); err == nil && r.Kind == KindConfig {
			change, err := DecodeConfigChange(r.Body)
			if err != nil {
				panic(err)
			}
			config, h.NextSet = &change.Config, change.Config.Set().Hash()
		}
	}
	var signers []int
	for _, v := range c.config.Validators[:set.Quorum()] {
		signers = append(signers, int(v.ID))
	}
	b := &Block{Header: h, Body: body, Certificate: votes(h, signers...)}
	c.prev, c.config = h, config
	return b
}

// grow adds a validator, in a block of its own.
func (c *proofChain) grow() *Block {
	next, err := DecodeConfig(c.config.Encode())
	if err != nil {
		panic(err)
	}
	n := int(next.NextID)
	next.Epoch, next.NextID = next.Epoch+1, next.NextID+1
	next.Validators = append(next.Validators, Validator{ID: uint64(n), Key: pub(n), Addresses: []string{}})
	hash := c.genesis.Hash()
	change := &ConfigChange{Config: *next, Approvals: []Approval{Approve(key(1), hash, next), Approve(key(2), hash, next)}}
	r := &Record{Kind: KindConfig, Subject: SubjectConfig, MediaType: MediaTypeConfig, Body: change.Encode(), Nonce: next.Epoch}
	r.Sign(key(1), hash)
	b := c.next(r.Encode())
	in, err := Include(b, 0, 0)
	if err != nil {
		panic(err)
	}
	c.trail = append(c.trail, in)
	return b
}

func (c *proofChain) records(n, size int) [][]byte {
	var raws [][]byte
	for i := range n {
		r := sampleRecord(c.genesis.Hash(), c.config.Epoch<<32|uint64(i), fmt.Sprintf(`{"n":%d}`, i)+strings.Repeat(" ", size))
		raws = append(raws, r.Encode())
	}
	return raws
}

func (c *proofChain) prove(tb testing.TB, b *Block, set *ValidatorSet, epochs, subtree, index int) *Proof {
	tb.Helper()
	in, err := Include(b, subtree, index)
	if err != nil {
		tb.Fatal(err)
	}
	return NewProof(c.genesis, in, set, c.trail[:epochs])
}

// TestProofOfEachRecord proves every record of blocks of all shapes, over
// several epochs, by way of the file.
func TestProofOfEachRecord(t *testing.T) {
	c := newProofChain()
	prove := func(b *Block, set *ValidatorSet, epochs int) {
		t.Helper()
		at := 0
		for s, sub := range b.Body {
			for i, raw := range sub.Records {
				file, err := c.prove(t, b, set, epochs, s, i).Encode()
				if err != nil {
					t.Fatal(err)
				}
				p, err := ParseProof(file)
				if err != nil {
					t.Fatal(err)
				}
				got, err := VerifyProof(p, c.genesis.Hash())
				if err != nil {
					t.Fatalf("block %d, subtree %d, record %d: %v", b.Header.Height, s, i, err)
				}
				if got.ID != RecordID(raw) || got.Header.Height != b.Header.Height || got.Hash != b.Header.Hash() || got.Subtree != s || got.Index != i {
					t.Fatalf("block %d, subtree %d, record %d: proven is %+v", b.Header.Height, s, i, got)
				}
				if len(got.Signers) != set.Quorum() || got.Signers[0].Key != pub(1) || got.Config.Epoch != uint64(epochs) {
					t.Fatalf("block %d: signed by %v of epoch %d", b.Header.Height, got.Signers, got.Config.Epoch)
				}
				if pos, ok := got.Position(); ok != (s == 0 || s == len(b.Body)-1) || ok && pos != at {
					t.Fatalf("block %d, subtree %d, record %d: position %d %v, want %d", b.Header.Height, s, i, pos, ok, at)
				}
				at++
			}
		}
	}
	for epoch := range 4 {
		set := c.config.Set()
		for _, n := range []int{1, 2, 3, 7} {
			prove(c.next(c.records(n, 0)...), set, epoch)
		}
		prove(c.next(c.records(14, 60_000)...), set, epoch) // two subtrees by bytes
		prove(c.grow(), set, epoch)
	}
	c = newProofChain()
	b := c.next(c.records(3*SubtreeRecords+5, 0)...) // four subtrees by count
	if len(b.Body) != 4 {
		t.Fatalf("%d subtrees", len(b.Body))
	}
	for s := range b.Body {
		for _, i := range []int{0, 1, len(b.Body[s].Records) - 1} {
			if _, err := VerifyProof(c.prove(t, b, c.config.Set(), 0, s, i), c.genesis.Hash()); err != nil {
				t.Errorf("subtree %d, record %d: %v", s, i, err)
			}
		}
	}
}

// sampleProof is over two epochs, of a record in the second subtree of three.
func sampleProof(tb testing.TB) (*proofChain, *Proof, *Block) {
	tb.Helper()
	c := newProofChain()
	c.next(c.records(2, 0)...)
	c.grow()
	c.next()
	c.grow()
	set := c.config.Set()
	b := c.next(c.records(2*SubtreeRecords+3, 0)...)
	return c, c.prove(tb, b, set, 2, 1, 77), b
}

func TestProofRefuses(t *testing.T) {
	c, _, b := sampleProof(t)
	hash := c.genesis.Hash()
	other := sampleGenesis(4)
	other.Salt[0]++
	for name, test := range map[string]struct {
		edit func(*Proof)
		want string
	}{
		"another genesis":    {func(p *Proof) { p.Genesis = other.Encode() }, "not of the one with genesis " + hash.String()},
		"no genesis":         {func(p *Proof) { p.Genesis = nil }, "decode genesis"},
		"altered record":     {func(p *Proof) { p.Record = c.records(1, 3)[0] }, "the record is not in it"},
		"broken signature":   {func(p *Proof) { p.Record[len(p.Record)-1] ^= 1 }, "the record is not in it"},
		"record of a leaf":   {func(p *Proof) { p.Subtree.Index-- }, "the record is not in it"},
		"subtree elsewhere":  {func(p *Proof) { p.Block.Index = 0 }, "the record is not in it"},
		"smaller subtree":    {func(p *Proof) { p.Subtree.Count-- }, "the record is not in it"},
		"fewer subtrees":     {func(p *Proof) { p.Block.Count-- }, "the header has 515 records in 3 subtrees"},
		"leaf out of bounds": {func(p *Proof) { p.Subtree.Index = 256 }, "leaf 256 of 256"},
		"leaf below zero":    {func(p *Proof) { p.Subtree.Index = -1 }, "leaf -1 of 256"},
		"huge subtree":       {func(p *Proof) { p.Subtree.Count = 1 << 40 }, "a subtree of"},
		"short path":         {func(p *Proof) { p.Subtree.Path = p.Subtree.Path[1:] }, "a path of 7 hashes"},
		"long path":          {func(p *Proof) { p.Block.Path = append(p.Block.Path, chain.Hash{}) }, "a path of 3 hashes"},
		"altered sibling":    {func(p *Proof) { p.Block.Path[0][0] ^= 1 }, "the record is not in it"},
		"altered header":     {func(p *Proof) { p.Header[162] ^= 1 }, "signature of validator 1 is wrong"},
		"cut certificate": {func(p *Proof) {
			cert, err := DecodeCertificate(p.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			cert.Votes = cert.Votes[1:]
			p.Certificate = cert.Encode()
		}, "votes of 6 validators: want at least 4"},
		"certificate of another": {func(p *Proof) { p.Certificate = p.Trail[0].Certificate }, "votes of 6 validators"},
		"other validators":       {func(p *Proof) { p.Validators = c.genesis.Config.Set().encode() }, "validators: the file lists others"},
		"no trail":               {func(p *Proof) { p.Trail = nil }, "of epoch 2 where the trail leads to 0"},
		"trail cut at its start": {func(p *Proof) { p.Trail = p.Trail[1:] }, "trail, epoch 1: "},
		"trail cut at its end":   {func(p *Proof) { p.Trail = p.Trail[:1] }, "of epoch 2 where the trail leads to 1"},
		"trail turned round":     {func(p *Proof) { p.Trail[0], p.Trail[1] = p.Trail[1], p.Trail[0] }, "trail, epoch 1: "},
		"trail twice":            {func(p *Proof) { p.Trail = append(p.Trail, p.Trail[1]) }, "trail, epoch 3: "},
		"trail without config":   {func(p *Proof) { p.Trail = append(p.Trail, p.Inclusion) }, "brings no config"},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := c.prove(t, b, c.config.Set(), 2, 1, 77).Encode()
			if err != nil {
				t.Fatal(err)
			}
			p, err := ParseProof(file) // a copy of its own
			if err != nil {
				t.Fatal(err)
			}
			test.edit(p)
			_, err = VerifyProof(p, hash)
			wantError(t, err, test.want)
		})
	}
}

// TestProofBits flips each bit of every binary field of a short proof: none
// may hold and say something else.
func TestProofBits(t *testing.T) {
	c := newProofChain()
	b := c.next(c.records(3, 0)...)
	p := c.prove(t, b, c.config.Set(), 0, 0, 1)
	for name, field := range map[string][]byte{"genesis": p.Genesis, "record": p.Record, "header": p.Header, "certificate": p.Certificate, "validators": p.Validators} {
		for i := range 8 * len(field) {
			if testing.Short() && i%7 != 0 {
				continue
			}
			field[i/8] ^= 1 << (i % 8)
			_, err := VerifyProof(p, c.genesis.Hash())
			switch {
			case err == nil:
				t.Errorf("%s: bit %d is free", name, i)
			case name == "record" && !strings.Contains(err.Error(), "the record is not in it"): // and not that a length is over its limit
				t.Errorf("%s: bit %d: %v", name, i, err)
			}
			field[i/8] ^= 1 << (i % 8)
		}
	}
	if _, err := VerifyProof(p, c.genesis.Hash()); err != nil {
		t.Fatal(err)
	}
}

func TestParseProof(t *testing.T) {
	_, p, _ := sampleProof(t)
	file, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var sorted bytes.Buffer
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(file, &fields); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Indent(&sorted, b, "", "\t"); err != nil {
		t.Fatal(err)
	}
	if again, err := ParseProof(sorted.Bytes()); err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("keys sorted and indented: %v", err)
	}
	text := string(file)
	for name, test := range map[string]struct{ text, want string }{
		"empty":           {"", "read proof: EOF"},
		"two":             {text + text, "more than one JSON value"},
		"format":          {strings.Replace(text, "proof/1", "proof/2", 1), `format "parley-proof/2" is unknown`},
		"unknown field":   {strings.Replace(text, `{"format"`, `{"x":1,"format"`, 1), `unknown field "x"`},
		"field twice":     {strings.Replace(text, `{"format"`, `{"format":"parley-proof/1","format"`, 1), "stands twice"},
		"field missing":   {strings.Replace(text, `"validators":`+quoted(t, p.Validators)+",", "", 1), "stands twice or is missing"},
		"null":            {strings.Replace(text, `"trail":[`, `"trail":null,"x":[`, 1), `unknown field "x"`},
		"no trail":        {text[:strings.Index(text, `,"trail"`)] + "}", "a field is missing"},
		"upper case":      {strings.Replace(text, quoted(t, p.Record), strings.ToUpper(quoted(t, p.Record)), 1), "is not lower-case hex"},
		"half a byte":     {strings.Replace(text, `"record":"`, `"record":"0`, 1), "is not lower-case hex"},
		"short hash":      {strings.Replace(text, `"path":["`, `"path":["00`, 1), "want 64 hex digits"},
		"fraction":        {strings.Replace(text, `"index":77`, `"index":77.5`, 1), "cannot unmarshal"},
		"more than a lot": {strings.Repeat(" ", MaxProof+1), "over the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseProof([]byte(test.text))
			wantError(t, err, test.want)
		})
	}
}

func quoted(t *testing.T, h Hex) string {
	t.Helper()
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGoldenProof(t *testing.T) {
	c, p, _ := sampleProof(t)
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "proof.json", append(b, '\n'))
	read, err := ParseProof(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyProof(read, c.genesis.Hash()); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyHeader(t *testing.T) {
	c, _, b := sampleProof(t)
	config, err := VerifyHeader(c.genesis, c.trail, b.Header, b.Certificate)
	if err != nil || config.Epoch != 2 {
		t.Fatalf("epoch %v, %v", config, err)
	}
	_, err = VerifyHeader(c.genesis, c.trail[:1], b.Header, b.Certificate)
	wantError(t, err, "of epoch 2 where the trail leads to 1")
	_, err = VerifyHeader(c.genesis, c.trail, b.Header, Certificate{b.Certificate.View, b.Certificate.Votes[:3]})
	wantError(t, err, "want at least 4")
}

func TestFraud(t *testing.T) {
	a, set := sampleBlock(2)
	b, _ := sampleBlock(3)
	one, two := Sealed{a.Header, votes(a.Header, 1, 2, 4), set}, Sealed{b.Header, votes(b.Header, 2, 3, 4), set}
	keys, err := Fraud(one, two)
	if err != nil || !reflect.DeepEqual(keys, []PublicKey{pub(2), pub(4)}) {
		t.Errorf("signed both: %v, %v", keys, err)
	}
	_, err = Fraud(one, Sealed{a.Header, votes(a.Header, 2, 3, 4), set})
	wantError(t, err, "both are the same block")
	_, err = Fraud(one, Sealed{b.Header, votes(b.Header, 2, 3), set})
	wantError(t, err, "2 votes of 4 validators")
	_, err = Fraud(one, Sealed{b.Header, votes(a.Header, 2, 3, 4), set})
	wantError(t, err, "the signature of validator 2 is wrong")
	later := *b.Header
	later.Height = 2
	_, err = Fraud(one, Sealed{&later, Certificate{}, set})
	wantError(t, err, "the heights 1 and 2")
	foreign := *b.Header
	foreign.Genesis[0]++
	_, err = Fraud(one, Sealed{&foreign, Certificate{}, set})
	wantError(t, err, "two chains")
}

// FuzzProof demands that what is read is written back as the same proof, and
// that verifying it never panics.
func FuzzProof(f *testing.F) {
	_, p, _ := sampleProof(f)
	add := func(p *Proof) {
		b, err := p.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	add(p)
	c := newProofChain()
	add(c.prove(f, c.next(c.records(1, 0)...), c.config.Set(), 0, 0, 0))
	hash := c.genesis.Hash()
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			return
		}
		_, _ = VerifyProof(p, hash)
		file, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseProof(file); err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%s is written as %s: %v", b, file, err)
		}
	})
}
