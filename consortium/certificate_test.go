package consortium

import (
	"bytes"
	"slices"
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// TestQuorum holds the table of the specification.
func TestQuorum(t *testing.T) {
	for _, c := range []struct{ n, quorum, crashes, traitors int }{
		{1, 1, 0, 0}, {2, 2, 0, 0}, {3, 2, 1, 0}, {4, 3, 1, 1}, {5, 4, 1, 1}, {6, 4, 2, 1}, {7, 5, 2, 2}, {10, 7, 3, 3}, {13, 9, 4, 4},
	} {
		s := sampleConfig(c.n).Set()
		if s.Len() != c.n || s.Quorum() != c.quorum || s.Len()-s.Quorum() != c.crashes || s.Faults() != c.traitors {
			t.Errorf("%d validators: quorum %d, faults %d; want %+v", s.Len(), s.Quorum(), s.Faults(), c)
		}
	}
	for n := 1; n <= MaxValidators; n++ { // any two quorums share an honest validator
		if s := sampleConfig(n).Set(); 2*s.Quorum()-n <= s.Faults() || s.Quorum() > n-s.Faults() {
			t.Errorf("%d validators: quorum %d, faults %d", n, s.Quorum(), s.Faults())
		}
	}
}

func TestValidatorSet(t *testing.T) {
	c := sampleConfig(4)
	s := c.Set()
	if key, ok := s.Key(3); !ok || key != pub(3) {
		t.Errorf("key of 3: %s, %t", key, ok)
	}
	if _, ok := s.Key(5); ok {
		t.Error("5 has a key")
	}
	if id, ok := s.ByKey(pub(4)); !ok || id != 4 {
		t.Errorf("id of key 4: %d, %t", id, ok)
	}
	if _, ok := s.ByKey(pub(5)); ok {
		t.Error("key 5 has an id")
	}
	s.IDs()[0] = 99
	if !slices.Equal(s.IDs(), []uint64{1, 2, 3, 4}) {
		t.Errorf("ids %v", s.IDs())
	}
}

func TestValidatorSetHash(t *testing.T) {
	want := sampleConfig(4).Set().Hash()
	for _, c := range []struct {
		name string
		edit func([]Validator) []Validator
		same bool
	}{
		{"order", func(v []Validator) []Validator { slices.Reverse(v); return v }, true},
		{"name", func(v []Validator) []Validator { v[0].Name = "other"; return v }, true},
		{"addresses", func(v []Validator) []Validator { v[0].Addresses = nil; return v }, true},
		{"id", func(v []Validator) []Validator { v[3].ID = 5; return v }, false},
		{"key", func(v []Validator) []Validator { v[3].Key = pub(5); return v }, false},
		{"number", func(v []Validator) []Validator { return v[:3] }, false},
		{"keys swapped", func(v []Validator) []Validator { v[0].Key, v[1].Key = v[1].Key, v[0].Key; return v }, false},
	} {
		if got := NewValidatorSet(c.edit(sampleConfig(4).Validators)).Hash(); (got == want) != c.same {
			t.Errorf("another %s: same hash is %t, want %t", c.name, got == want, c.same)
		}
	}
}

func TestCertificateVerify(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Block)
		want string
	}{
		{"quorum", func(*Block) {}, ""},
		{"all", func(b *Block) { b.Certificate = votes(b.Header, 1, 2, 3, 4) }, ""},
		{"none", func(b *Block) { b.Certificate.Votes = nil }, "0 votes of 4 validators: want at least 3"},
		{"one short", func(b *Block) { b.Certificate.Votes = b.Certificate.Votes[:2] }, "2 votes"},
		{"stranger", func(b *Block) { b.Certificate = votes(b.Header, 1, 2, 5) }, "validator 5 is not in the set"},
		{"quorum and a stranger", func(b *Block) { b.Certificate = votes(b.Header, 1, 2, 3, 5) }, "validator 5"},
		{"votes of two views", func(b *Block) {
			h := b.Header
			b.Certificate.Votes[1].Sig = SignVote(key(2), h.Genesis, h.Hash(), h.Height, sampleView-1)
		}, "signature of validator 2"},
		{"another view", func(b *Block) { b.Certificate.View-- }, "signature of validator 1"},
		{"twice", func(b *Block) { b.Certificate = votes(b.Header, 1, 2, 2) }, "ascending"},
		{"order", func(b *Block) { b.Certificate = votes(b.Header, 2, 1, 3) }, "ascending"},
		{"quorum and a bad one", func(b *Block) {
			b.Certificate = votes(b.Header, 1, 2, 3, 4)
			b.Certificate.Votes[3].Sig[0] ^= 1
		}, "signature of validator 4"},
		{"other's signature", func(b *Block) { b.Certificate.Votes[0].Sig = b.Certificate.Votes[1].Sig }, "signature of validator 1"},
		{"other header", func(b *Block) { b.Header.Time++ }, "signature"},
		{"other set", func(b *Block) {
			b.Header.Set = chain.Hash{1}
			b.Certificate = votes(b.Header, 1, 2, 4)
		}, "validator set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, set := sampleBlock(2)
			c.edit(b)
			wantError(t, b.Certificate.Verify(b.Header, set), c.want)
		})
	}
}

func TestVote(t *testing.T) {
	genesis, header := chain.Hash{1}, chain.Hash{2}
	sig := SignVote(key(1), genesis, header, 3, 4)
	if !VerifyVote(pub(1), genesis, header, 3, 4, sig) {
		t.Error("refused")
	}
	if VerifyVote(pub(2), genesis, header, 3, 4, sig) || VerifyVote(pub(1), header, header, 3, 4, sig) || VerifyVote(pub(1), genesis, genesis, 3, 4, sig) ||
		VerifyVote(pub(1), genesis, header, 4, 4, sig) || VerifyVote(pub(1), genesis, header, 3, 3, sig) {
		t.Error("accepted for another key, chain, header, height or view")
	}
	msg := slices.Concat([]byte("\x0dparley/vote/1"), genesis[:], header[:], []byte{0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4})
	if !bytes.Equal(msg, VoteMessage(genesis, header, 3, 4)) {
		t.Errorf("message %x, want %x", VoteMessage(genesis, header, 3, 4), msg)
	}
	if h, height, view, ok := ParseVote(genesis, msg); !ok || h != header || height != 3 || view != 4 {
		t.Errorf("read as header %s, height %d, view %d, %v", h, height, view, ok)
	}
	for _, other := range [][]byte{nil, msg[1:], msg[:len(msg)-1], append([]byte{0}, msg...), msg[len(msg)-48:]} {
		if _, _, _, ok := ParseVote(genesis, other); ok {
			t.Errorf("%x is read as a vote", other)
		}
	}
	if _, _, _, ok := ParseVote(header, msg); ok {
		t.Error("a vote of another chain is read")
	}
}

func TestDecodeCertificateRefuses(t *testing.T) {
	b, _ := sampleBlock(1)
	raw := b.Certificate.Encode()
	if len(raw) != 8+2+3*72 {
		t.Errorf("%d bytes", len(raw))
	}
	for n := range raw {
		if _, err := DecodeCertificate(raw[:n]); err == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	_, err := DecodeCertificate(append(raw, 0))
	wantError(t, err, "left over")
	_, err = DecodeCertificate(Certificate{Votes: []Vote{{Validator: 2}, {Validator: 1}}}.Encode())
	wantError(t, err, "ascending")
	_, err = DecodeCertificate(Certificate{Votes: []Vote{{Validator: 1}, {Validator: 1}}}.Encode())
	wantError(t, err, "ascending")
	all := make([]Vote, MaxValidators+1)
	for i := range all {
		all[i].Validator = uint64(i)
	}
	_, err = DecodeCertificate(Certificate{Votes: all[1:]}.Encode())
	wantError(t, err, "")
	_, err = DecodeCertificate(Certificate{Votes: all}.Encode())
	wantError(t, err, "over the limit of 31")
	_, err = DecodeCertificate(Certificate{View: MaxNumber + 1}.Encode())
	wantError(t, err, "view 9007199254740992 is over 9007199254740991")
}
