package consortium

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-p2p/parley/chain"
)

var testGenesis = chain.Hash{1, 2, 3}

func TestRecordRoundTrip(t *testing.T) {
	r := &Record{Nonce: 7, NotAfter: 99, Subject: "größe", MediaType: "text/plain; charset=utf-8", Body: []byte("x")}
	r.Sign(key(1), testGenesis)
	raw := r.Encode()
	got, err := DecodeRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Error(d)
	}
	if err := got.Verify(testGenesis); err != nil {
		t.Error(err)
	}
	if &got.Body[0] != &raw[len(raw)-64-1] {
		t.Error("body is a copy")
	}
	if got.Author != pub(1) {
		t.Errorf("author %s, want %s", got.Author, pub(1))
	}
}

func TestRecordSizes(t *testing.T) {
	r := &Record{Subject: strings.Repeat("s", MaxSubject), MediaType: "a/" + strings.Repeat("b", MaxMediaType-2), Body: make([]byte, MaxBody)}
	r.Sign(key(1), testGenesis)
	if n := len(r.Encode()); n != 66_040 {
		t.Errorf("largest record has %d bytes, want 66040", n)
	}
	if _, err := DecodeRecord(r.Encode()); err != nil {
		t.Error(err)
	}
	r = &Record{Subject: "s", MediaType: "a/b"}
	if n := len(r.Encode()); n != 125 {
		t.Errorf("smallest record has %d bytes, want 125", n)
	}
	if _, err := DecodeRecord(r.Encode()); err != nil {
		t.Error(err)
	}
}

func TestRecordLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Record)
		want Reason
	}{
		{"as it is", func(*Record) {}, ""},
		{"kind", func(r *Record) { r.Kind = 2 }, Malformed},
		{"not_after at its limit", func(r *Record) { r.NotAfter = MaxNumber }, ""},
		{"not_after over it", func(r *Record) { r.NotAfter = MaxNumber + 1 }, Malformed},
		{"no subject", func(r *Record) { r.Subject = "" }, BadSubject},
		{"subject of one byte", func(r *Record) { r.Subject = "s" }, ""},
		{"subject at its limit", func(r *Record) { r.Subject = strings.Repeat("s", 256) }, ""},
		{"subject over it", func(r *Record) { r.Subject = strings.Repeat("s", 257) }, BadSubject},
		{"subject not UTF-8", func(r *Record) { r.Subject = "a\xff" }, BadSubject},
		{"subject with newline", func(r *Record) { r.Subject = "a\nb" }, BadSubject},
		{"subject with DEL", func(r *Record) { r.Subject = "a\x7fb" }, BadSubject},
		{"subject with C1", func(r *Record) { r.Subject = "a\u0085b" }, BadSubject},
		{"space first", func(r *Record) { r.Subject = " a" }, BadSubject},
		{"space last", func(r *Record) { r.Subject = "a " }, BadSubject},
		{"space inside", func(r *Record) { r.Subject = "a b" }, ""},
		{"media type of two bytes", func(r *Record) { r.MediaType = "a/" }, BadMediaType},
		{"media type of three", func(r *Record) { r.MediaType = "a/b" }, ""},
		{"media type at its limit", func(r *Record) { r.MediaType = "a/" + strings.Repeat("b", 125) }, ""},
		{"media type over it", func(r *Record) { r.MediaType = "a/" + strings.Repeat("b", 126) }, BadMediaType},
		{"media type without slash", func(r *Record) { r.MediaType = "text" }, BadMediaType},
		{"media type with two", func(r *Record) { r.MediaType = "a/b/c" }, BadMediaType},
		{"slash first", func(r *Record) { r.MediaType = "/ab" }, BadMediaType},
		{"slash last", func(r *Record) { r.MediaType = "ab/" }, BadMediaType},
		{"media type not ASCII", func(r *Record) { r.MediaType = "a/ü" }, BadMediaType},
		{"media type with tab", func(r *Record) { r.MediaType = "a/b\tc" }, BadMediaType},
		{"body at its limit", func(r *Record) { r.Body = make([]byte, MaxBody) }, ""},
		{"body over it", func(r *Record) { r.Body = make([]byte, MaxBody+1) }, TooLarge},
		{"config", func(r *Record) { r.Kind, r.Subject, r.MediaType = KindConfig, SubjectConfig, MediaTypeConfig }, ""},
		{"config subject", func(r *Record) { r.Kind, r.MediaType = KindConfig, MediaTypeConfig }, BadSubject},
		{"config media type", func(r *Record) { r.Kind, r.Subject = KindConfig, SubjectConfig }, BadMediaType},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Record{Subject: "s", MediaType: "text/plain"}
			c.edit(r)
			r.Sign(key(1), testGenesis)
			wantReason(t, r.Check(), c.want)
			_, err := DecodeRecord(r.Encode())
			wantReason(t, err, c.want)
		})
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	good := sampleRecord(testGenesis, 1, "body").Encode()
	flip := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for _, c := range []struct {
		name string
		raw  []byte
		want Reason
	}{
		{"nothing", nil, Malformed},
		{"version 0", flip(0, 0), Malformed},
		{"version 2", flip(0, 2), Malformed},
		{"trailing byte", append(bytes.Clone(good), 0), Malformed},
		{"body too short", flip(50+2+25+1+16+3, 5), Malformed},
		{"body too long", flip(50+2+25+1+16+3, 3), Malformed},
		{"body of 16 MiB", flip(50+2+25+1+16, 1), TooLarge},
		{"over the limit", make([]byte, MaxRecord+1), TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeRecord(c.raw)
			wantReason(t, err, c.want)
		})
	}
	for n := range good {
		_, err := DecodeRecord(good[:n])
		wantReason(t, err, Malformed)
	}
}

func TestRecordVerify(t *testing.T) {
	for _, c := range []struct {
		name    string
		edit    func(*Record)
		genesis chain.Hash
		want    Reason
	}{
		{"as signed", func(*Record) {}, testGenesis, ""},
		{"other chain", func(*Record) {}, chain.Hash{9}, BadSignature},
		{"kind", func(r *Record) { r.Kind = 1 }, testGenesis, BadSignature},
		{"author", func(r *Record) { r.Author = pub(2) }, testGenesis, BadSignature},
		{"author no point", func(r *Record) { r.Author = PublicKey{2} }, testGenesis, BadSignature},
		{"nonce", func(r *Record) { r.Nonce++ }, testGenesis, BadSignature},
		{"not_after", func(r *Record) { r.NotAfter++ }, testGenesis, BadSignature},
		{"subject", func(r *Record) { r.Subject += "x" }, testGenesis, BadSignature},
		{"media type", func(r *Record) { r.MediaType += "x" }, testGenesis, BadSignature},
		{"body", func(r *Record) { r.Body = []byte("other") }, testGenesis, BadSignature},
		{"signature", func(r *Record) { r.Sig[5] ^= 1 }, testGenesis, BadSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := sampleRecord(testGenesis, 1, "body")
			c.edit(r)
			wantReason(t, r.Verify(c.genesis), c.want)
		})
	}
}

// TestRecordIDFixesEveryByte flips each bit of a record.
func TestRecordIDFixesEveryByte(t *testing.T) {
	raw := sampleRecord(testGenesis, 1, strings.Repeat("long ", 300)).Encode() // takes the streaming way
	id := RecordID(raw)
	for i := range raw {
		raw[i] ^= 1
		if RecordID(raw) == id {
			t.Fatalf("byte %d is not in the id", i)
		}
		raw[i] ^= 1
	}
}

func TestReasonStatus(t *testing.T) {
	want := map[Reason]int{
		Malformed: 400, TooLarge: 413, BadSubject: 400, BadMediaType: 400, BadSignature: 400, UnknownAuthor: 403, NotAuthorised: 403,
		Duplicate: 200, Expired: 409, StaleConfig: 409, MempoolFull: 503, AuthorLimit: 429, RateLimited: 429,
		DiskLow: 503, Syncing: 503, ShuttingDown: 503, "something else": http.StatusInternalServerError,
	}
	for r, status := range want {
		if got := r.HTTPStatus(); got != status {
			t.Errorf("%s gives %d, want %d", r, got, status)
		}
	}
}

func TestPublicKeyText(t *testing.T) {
	k := pub(1)
	bare := strings.TrimPrefix(k.String(), "ed25519:")
	for _, s := range []string{k.String(), bare, strings.ToUpper(bare)} {
		if got, err := ParsePublicKey(s); err != nil || got != k {
			t.Errorf("%q gives %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "ed25519:", bare[1:], bare + "0", "secp256k1:" + bare, strings.Repeat("g", 64)} {
		if _, err := ParsePublicKey(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	id, err := k.PeerID()
	if err != nil {
		t.Fatal(err)
	}
	if got := id.String(); got != "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5" {
		t.Errorf("peer id %s", got)
	}
}

func TestViewSignature(t *testing.T) {
	data := []byte("view data")
	sig := SignView(key(1), testGenesis, data)
	if !VerifyView(pub(1), testGenesis, data, sig) {
		t.Error("refused")
	}
	if VerifyView(pub(2), testGenesis, data, sig) || VerifyView(pub(1), chain.Hash{}, data, sig) || VerifyView(pub(1), testGenesis, data[1:], sig) {
		t.Error("accepted for another key, chain or data")
	}
}

// TestSignedBytes writes the signed messages out by hand.
func TestSignedBytes(t *testing.T) {
	r := sampleRecord(testGenesis, 1, "body")
	raw := r.Encode()
	change := sampleChange(1, nil, 1)
	view := SignView(key(1), testGenesis, []byte("view"))
	genesis := sampleGenesis(1).Hash()
	for _, c := range []struct {
		tag     string
		genesis chain.Hash
		key     PublicKey
		data    []byte
		sig     Signature
	}{
		{"parley/sign-record/1", testGenesis, pub(9), raw[:len(raw)-64], r.Sig},
		{"parley/approve/1", genesis, pub(1), change.Config.Encode(), change.Approvals[0].Sig},
		{"parley/view/1", testGenesis, pub(1), []byte("view"), view},
	} {
		digest := sha256.Sum256(c.data)
		msg := slices.Concat([]byte{byte(len(c.tag))}, []byte(c.tag), c.genesis[:], digest[:])
		if !ed25519.Verify(c.key[:], msg, c.sig[:]) {
			t.Errorf("%s: the signature is not over tag, genesis and digest", c.tag)
		}
	}
}
