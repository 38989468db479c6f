package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/parley-p2p/parley/chain"
)

// Limits of what chain messages carry. Header, certificate, record and config
// are LEDGER's own encoding, whose decoders are stricter than these.
const (
	MaxSubtrees     = 512 // of one block
	MaxHeader       = 512 // bytes; 268 today
	MaxCertificate  = 4 << 10
	MaxRecord       = 66_040  // bytes
	MaxSubtreeBytes = 458_752 // bytes of records in one subtree
	MaxConfig       = MaxGenesis
	maxRecordCount  = 4096 // of one message: a real record has over 64 bytes
)

// BlockAnnouncement tells of a committed block; receivers build its body from
// what they have and pull the rest.
type BlockAnnouncement struct {
	Header      []byte
	Certificate []byte
	Subtrees    []chain.Hash // subtree ids in order
}

// Encode gives at most MaxAnnouncement bytes within the fields' limits.
func (a BlockAnnouncement) Encode() []byte {
	b := make([]byte, 0, len(a.Header)+len(a.Certificate)+len(a.Subtrees)*hashSize+16)
	b = putBytes(b, 1, a.Header)
	b = putBytes(b, 2, a.Certificate)
	return putHashes(b, 3, a.Subtrees)
}

// DecodeBlockAnnouncement does not look into header and certificate.
func DecodeBlockAnnouncement(b []byte) (BlockAnnouncement, error) {
	var a BlockAnnouncement
	f := scan("block announcement", b, MaxAnnouncement)
	for f.next() {
		switch f.num {
		case 1:
			a.Header = f.bytes(MaxHeader)
		case 2:
			a.Certificate = f.bytes(MaxCertificate)
		case 3:
			a.Subtrees = f.hashes(MaxSubtrees)
		}
	}
	return result(a, &f)
}

// RecordsSize is the length of EncodeRecords of one record of n bytes, to fill
// a message up to MaxRecords.
func RecordsSize(n int) int { return 4 + n }

// EncodeRecords writes each record as u32 length and bytes. The caller keeps
// the whole within MaxRecords.
func EncodeRecords(records [][]byte) []byte {
	size := 0
	for _, r := range records {
		size += RecordsSize(len(r))
	}
	b := make([]byte, 0, size)
	for _, r := range records {
		b = binary.BigEndian.AppendUint32(b, uint32(len(r)))
		b = append(b, r...)
	}
	return b
}

// DecodeRecords reads at least one record; none is empty. They alias b.
func DecodeRecords(b []byte) ([][]byte, error) {
	if len(b) > MaxRecords {
		return nil, fmt.Errorf("%w: records of %d bytes, limit %d", ErrTooLarge, len(b), MaxRecords)
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: records: none", ErrMalformed)
	}
	var records [][]byte
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: records: %d bytes after the last", ErrMalformed, len(b))
		}
		n := uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
		switch {
		case n > MaxRecord:
			return nil, fmt.Errorf("%w: record of %d bytes, limit %d", ErrTooLarge, n, MaxRecord)
		case n == 0:
			return nil, fmt.Errorf("%w: record %d is empty", ErrMalformed, len(records))
		case n > uint64(len(b)):
			return nil, fmt.Errorf("%w: record of %d bytes, %d are left", ErrMalformed, n, len(b))
		case len(records) == maxRecordCount:
			return nil, fmt.Errorf("%w: more than %d records", ErrTooLarge, maxRecordCount)
		}
		records = append(records, b[:n:n])
		b = b[n:]
	}
	return records, nil
}

// SyncKind is what a SyncRequest asks for.
type SyncKind uint32

// Kinds of a SyncRequest, with the fields that each one uses. Where IDs are
// asked for, From may name the block that holds them: who is about to have it
// waits a moment for it.
const (
	SyncHead     SyncKind = 1 + iota // nothing → HeaderAnswer, none at height 0
	SyncHeaders                      // From, Count ≤ 1,024 → HeaderAnswer each
	SyncBodies                       // From, Count ≤ 128 → SubtreeAnswer for each subtree
	SyncSubtrees                     // IDs ≤ 512 → SubtreeAnswer each
	SyncRecords                      // IDs ≤ 2,000 → frames of EncodeRecords
	SyncConfigs                      // From = epoch → ConfigAnswer each
	SyncIDs                          // IDs ≤ 512 of subtrees → Subtree each, with the ids of its records
)

// Limits of SyncRequest.Count and of len(SyncRequest.IDs).
const (
	MaxSyncHeaders  = 1024
	MaxSyncBodies   = 128
	MaxSyncSubtrees = 512
	MaxSyncRecords  = 2000
)

var syncNames = [...]string{"unknown", "head", "headers", "bodies", "subtrees", "records", "configs", "ids"}

// String is the kind's name in LEDGER 6.
func (k SyncKind) String() string {
	if uint64(k) < uint64(len(syncNames)) {
		return syncNames[k]
	}
	return syncNames[0]
}

// SyncRequest is the one frame that opens a sync stream.
type SyncRequest struct {
	Kind  SyncKind
	From  uint64 // height; epoch for SyncConfigs
	Count uint32
	IDs   []chain.Hash
}

// Encode gives at most MaxSyncRequest bytes within the kind's limits.
func (r SyncRequest) Encode() []byte {
	b := make([]byte, 0, len(r.IDs)*hashSize+32)
	b = putUint(b, 1, uint64(r.Kind))
	b = putUint(b, 2, r.From)
	b = putUint(b, 3, uint64(r.Count))
	return putHashes(b, 4, r.IDs)
}

// DecodeSyncRequest checks that the kind is known and that the fields which it
// uses are there and within its limits.
func DecodeSyncRequest(b []byte) (SyncRequest, error) {
	var r SyncRequest
	f := scan("sync request", b, MaxSyncRequest)
	for f.next() {
		switch f.num {
		case 1:
			r.Kind = SyncKind(f.uint(math.MaxUint32))
		case 2:
			r.From = f.uint(maxNumber)
		case 3:
			r.Count = uint32(f.uint(math.MaxInt32))
		case 4:
			r.IDs = f.hashes(MaxSyncRecords)
		}
	}
	r.check(&f)
	return result(r, &f)
}

func (r *SyncRequest) check(f *fields) {
	within := func(num protowire.Number, have, limit int) {
		f.num = num
		if have == 0 {
			f.malformed("%s of nothing", r.Kind)
		} else if have > limit {
			f.tooLarge(r.Kind.String(), have, limit)
		}
	}
	switch r.Kind {
	case SyncHead, SyncConfigs:
	case SyncHeaders:
		within(3, int(r.Count), MaxSyncHeaders)
	case SyncBodies:
		within(3, int(r.Count), MaxSyncBodies)
	case SyncSubtrees, SyncIDs:
		within(4, len(r.IDs), MaxSyncSubtrees)
	case SyncRecords:
		within(4, len(r.IDs), MaxSyncRecords)
	default:
		f.num = 1
		f.malformed("unknown kind %d", uint32(r.Kind))
	}
}

// HeaderAnswer is a header with one of its certificates.
type HeaderAnswer struct {
	Header      []byte
	Certificate []byte
}

// Encode writes a.
func (a HeaderAnswer) Encode() []byte {
	b := make([]byte, 0, len(a.Header)+len(a.Certificate)+16)
	return putBytes(putBytes(b, 1, a.Header), 2, a.Certificate)
}

// DecodeHeaderAnswer does not look into header and certificate.
func DecodeHeaderAnswer(b []byte) (HeaderAnswer, error) {
	var a HeaderAnswer
	f := scan("header answer", b, MaxSyncAnswer)
	for f.next() {
		switch f.num {
		case 1:
			a.Header = f.bytes(MaxHeader)
		case 2:
			a.Certificate = f.bytes(MaxCertificate)
		}
	}
	return result(a, &f)
}

// SubtreeAnswer is one subtree with its place in the chain.
type SubtreeAnswer struct {
	Height  uint64
	Index   uint32
	Records [][]byte
}

// Encode gives at most MaxSyncAnswer bytes within the fields' limits.
func (a SubtreeAnswer) Encode() []byte {
	size := 32
	for _, r := range a.Records {
		size += protowire.SizeBytes(len(r)) + 1
	}
	b := make([]byte, 0, size)
	b = putUint(b, 1, a.Height)
	b = putUint(b, 2, uint64(a.Index))
	for _, r := range a.Records {
		b = protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), r)
	}
	return b
}

// DecodeSubtreeAnswer reads at most one subtree's worth of records; none is
// empty.
func DecodeSubtreeAnswer(b []byte) (SubtreeAnswer, error) {
	var a SubtreeAnswer
	total := 0
	f := scan("subtree answer", b, MaxSyncAnswer)
	for f.next() {
		switch f.num {
		case 1:
			a.Height = f.uint(maxNumber)
		case 2:
			a.Index = uint32(f.uint(MaxSubtrees - 1))
		case 3:
			r := f.bytes(MaxRecord)
			total += len(r)
			switch {
			case len(r) == 0:
				f.malformed("record %d is empty", len(a.Records))
			case len(a.Records) == SubtreeRecords:
				f.tooLarge("records", SubtreeRecords+1, SubtreeRecords)
			case total > MaxSubtreeBytes:
				f.tooLarge("bytes of records", total, MaxSubtreeBytes)
			}
			a.Records = append(a.Records, r)
		}
	}
	return result(a, &f)
}

// ConfigAnswer is a config of the chain and the height of the block that
// brought it, 0 for the genesis.
type ConfigAnswer struct {
	Height uint64
	Config []byte
}

// Encode writes a.
func (a ConfigAnswer) Encode() []byte {
	b := make([]byte, 0, len(a.Config)+24)
	return putBytes(putUint(b, 1, a.Height), 2, a.Config)
}

// DecodeConfigAnswer does not look into the config.
func DecodeConfigAnswer(b []byte) (ConfigAnswer, error) {
	var a ConfigAnswer
	f := scan("config answer", b, MaxSyncAnswer)
	for f.next() {
		switch f.num {
		case 1:
			a.Height = f.uint(maxNumber)
		case 2:
			a.Config = f.bytes(MaxConfig)
		}
	}
	return result(a, &f)
}
