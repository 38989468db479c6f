// Package consortium owns the words of the embedded chain: record, subtree,
// block, certificate, config, genesis and proof, their bytes, and their
// verification without a node.
package consortium

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/parley-p2p/parley/chain"
)

// Kinds of a record.
const (
	KindRecord uint8 = 0 // what users write
	KindConfig uint8 = 1 // a change of the chain's config, alone in its block
)

// Record is what a user signs. Its id is the hash of all its bytes, the
// signature included.
type Record struct {
	Kind      uint8
	Author    PublicKey
	Nonce     uint64 // any number; the same content again needs another one
	NotAfter  uint64 // last height at which the record is valid; 0 = no end
	Subject   string // names the thing; compared byte by byte
	MediaType string
	Body      []byte
	Sig       Signature // by the author, over all fields above
}

// RecordID is the id of an encoded record. It does not look at the bytes.
func RecordID(raw []byte) chain.Hash { return tagged(tagRecord, raw) }

// DecodeRecord reads one record and checks all that [Record.Check] does, not
// the signature. Body aliases b. Every error is a *RecordError.
func DecodeRecord(b []byte) (*Record, error) {
	if len(b) > MaxRecord {
		return nil, Refuse(TooLarge, "record of %d bytes is over the limit of %d", len(b), MaxRecord)
	}
	c := cursor{b: b}
	c.version()
	r := &Record{Kind: c.u8()}
	c.fill(r.Author[:])
	r.Nonce, r.NotAfter = c.u64(), c.u64()
	n := int(c.u16())
	if n > MaxSubject {
		return nil, Refuse(BadSubject, "subject of %d bytes: want 1 to %d", n, MaxSubject)
	}
	r.Subject = string(c.take(n))
	n = int(c.u8())
	if n > MaxMediaType {
		return nil, Refuse(BadMediaType, "media type of %d bytes: want %d to %d", n, MinMediaType, MaxMediaType)
	}
	r.MediaType = string(c.take(n))
	size := c.u32()
	if size > MaxBody {
		return nil, Refuse(TooLarge, "body of %d bytes is over the limit of %d", size, MaxBody)
	}
	r.Body = c.take(int(size))
	c.fill(r.Sig[:])
	if err := c.end(); err != nil {
		return nil, Refuse(Malformed, "record %v", err)
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}

// Encode gives the record's bytes. A record that fails [Record.Check] may not
// decode again.
func (r *Record) Encode() []byte {
	b := make([]byte, 0, recordFixed+len(r.Subject)+len(r.MediaType)+len(r.Body))
	b = append(r.appendHead(b), r.Body...)
	return append(b, r.Sig[:]...)
}

// appendHead appends what stands before the body.
func (r *Record) appendHead(b []byte) []byte {
	b = append(b, 1, r.Kind)
	b = append(b, r.Author[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Nonce)
	b = binary.BigEndian.AppendUint64(b, r.NotAfter)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Subject)))
	b = append(b, r.Subject...)
	b = append(b, byte(len(r.MediaType)))
	b = append(b, r.MediaType...)
	return binary.BigEndian.AppendUint32(b, uint32(len(r.Body)))
}

// Check looks at kind, sizes, subject and media type; not at the signature and
// not at what a config record holds. Every error is a *RecordError.
func (r *Record) Check() error {
	if r.Kind > KindConfig {
		return Refuse(Malformed, "kind %d is unknown: want %d (record) or %d (config)", r.Kind, KindRecord, KindConfig)
	}
	if r.NotAfter > MaxNumber {
		return Refuse(Malformed, "not_after %d is over %d", r.NotAfter, uint64(MaxNumber))
	}
	if err := checkSubject(r.Subject); err != nil {
		return err
	}
	if err := checkMediaType(r.MediaType); err != nil {
		return err
	}
	if len(r.Body) > MaxBody {
		return Refuse(TooLarge, "body of %d bytes is over the limit of %d: store it elsewhere and record its hash", len(r.Body), MaxBody)
	}
	if r.Kind == KindConfig && r.Subject != SubjectConfig {
		return Refuse(BadSubject, "subject %q of a config record: want %q", shorten(r.Subject), SubjectConfig)
	}
	if r.Kind == KindConfig && r.MediaType != MediaTypeConfig {
		return Refuse(BadMediaType, "media type %q of a config record: want %q", r.MediaType, MediaTypeConfig)
	}
	return nil
}

func checkSubject(s string) error {
	switch {
	case len(s) == 0 || len(s) > MaxSubject:
		return Refuse(BadSubject, "subject of %d bytes: want 1 to %d", len(s), MaxSubject)
	case !utf8.ValidString(s):
		return Refuse(BadSubject, "subject %q is not UTF-8", shorten(s))
	case strings.IndexFunc(s, unicode.IsControl) >= 0:
		return Refuse(BadSubject, "subject %q holds a control character", shorten(s))
	case s[0] == ' ' || s[len(s)-1] == ' ': // U+0020 alone: no table of Unicode that could grow
		return Refuse(BadSubject, "subject %q has a space at an end: trim it", shorten(s))
	}
	return nil
}

func checkMediaType(s string) error {
	if len(s) < MinMediaType || len(s) > MaxMediaType {
		return Refuse(BadMediaType, "media type of %d bytes: want %d to %d", len(s), MinMediaType, MaxMediaType)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return Refuse(BadMediaType, "media type %q holds byte 0x%02x: want printable ASCII", s, s[i])
		}
	}
	if i := strings.IndexByte(s, '/'); i <= 0 || i == len(s)-1 || strings.Count(s, "/") != 1 {
		return Refuse(BadMediaType, `media type %q: want one "/" between type and subtype`, s)
	}
	return nil
}

// digest is SHA-256 over the record without its signature.
func (r *Record) digest() chain.Hash {
	var buf [recordFixed + MaxSubject + MaxMediaType]byte
	h := sha256.New()
	h.Write(r.appendHead(buf[:0]))
	h.Write(r.Body)
	return chain.Hash(h.Sum(buf[:0]))
}

// Sign sets Author and Sig, for the chain with this genesis hash.
func (r *Record) Sign(key ed25519.PrivateKey, genesis chain.Hash) {
	r.Author = PublicKeyOf(key)
	r.Sig = sign(key, signedBytes(tagSignRecord, genesis, r.digest()))
}

// VerifyRecords is [Record.Verify] of each: errs[i] is that of records[i]. For
// many records of few authors it costs less.
func VerifyRecords(records []*Record, genesis chain.Hash) (errs []error) {
	list := make([]signed, len(records))
	for i, r := range records {
		list[i] = signed{r.Author, signedBytes(tagSignRecord, genesis, r.digest()), r.Sig}
	}
	errs = make([]error, len(records))
	for i, good := range verifyAll(list) {
		if !good {
			errs[i] = records[i].badSignature(genesis)
		}
	}
	return errs
}

// Verify returns a *RecordError unless the author signed this for the chain
// with this genesis hash.
func (r *Record) Verify(genesis chain.Hash) error {
	if !r.Author.verify(signedBytes(tagSignRecord, genesis, r.digest()), r.Sig) {
		return r.badSignature(genesis)
	}
	return nil
}

func (r *Record) badSignature(genesis chain.Hash) error {
	return Refuse(BadSignature, "the signature is not %s's over this record on chain %s", r.Author, genesis.Short())
}
