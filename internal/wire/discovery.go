package wire

import "math"

// Limits of what peers tell of other peers.
const (
	MaxPEXRequest = 64
	MaxPEXAnswer  = 256 << 10
	MaxPEXRecords = 250     // in one answer
	MaxPEXRecord  = 1 << 10 // a signed peer record; 250 of them fit an answer

	MaxDHTValue = 4 << 10 // the whole signed envelope
	MaxDHTData  = 3840    // what a value carries; envelope and header take the rest
	MaxDHTKind  = 32
)

// PEXRequest asks for records of other peers.
type PEXRequest struct {
	Max uint32 // records wanted at most, 0 = MaxPEXRecords
}

// Encode gives at most MaxPEXRequest bytes.
func (r PEXRequest) Encode() []byte { return putUint(nil, 1, uint64(r.Max)) }

// DecodePEXRequest reads a PEXRequest.
func DecodePEXRequest(b []byte) (PEXRequest, error) {
	var r PEXRequest
	f := scan("pex request", b, MaxPEXRequest)
	for f.next() {
		if f.num == 1 {
			r.Max = uint32(f.uint(MaxPEXRecords))
		}
	}
	return result(r, &f)
}

// PEXAnswer holds signed peer records, each the envelope of its own peer.
type PEXAnswer struct {
	Records [][]byte
}

// Encode gives at most MaxPEXAnswer bytes within the fields' limits.
func (a PEXAnswer) Encode() []byte {
	var b []byte
	for _, r := range a.Records {
		b = putBytes(b, 1, r)
	}
	return b
}

// DecodePEXAnswer opens no envelope. An empty record is malformed.
func DecodePEXAnswer(b []byte) (PEXAnswer, error) {
	var a PEXAnswer
	f := scan("pex answer", b, MaxPEXAnswer)
	for f.next() {
		if f.num != 1 {
			continue
		}
		if len(a.Records) == MaxPEXRecords {
			f.tooLarge("records", len(a.Records)+1, MaxPEXRecords)
			break
		}
		r := f.bytes(MaxPEXRecord)
		if f.err == nil && len(r) == 0 {
			f.malformed("an empty record")
		}
		a.Records = append(a.Records, r)
	}
	return result(a, &f)
}

// DHTValue is the payload of the signed envelope that a value in the DHT is.
// Its author is the envelope's signer.
type DHTValue struct {
	Kind   string // of the key, [a-z0-9_-]
	Seq    uint64 // the highest one of an author and kind counts
	TimeMS uint64 // of issue, by the author's clock
	Data   []byte
}

// Encode writes v. A Kind that is longer than MaxDHTKind is cut.
func (v DHTValue) Encode() []byte {
	b := make([]byte, 0, len(v.Data)+64)
	b = putText(b, 1, v.Kind, MaxDHTKind)
	b = putUint(b, 2, v.Seq)
	b = putUint(b, 3, v.TimeMS)
	return putBytes(b, 4, v.Data)
}

// DecodeDHTValue does not check the kind's letters.
func DecodeDHTValue(b []byte) (DHTValue, error) {
	var v DHTValue
	f := scan("dht value", b, MaxDHTValue)
	for f.next() {
		switch f.num {
		case 1:
			v.Kind = f.text(MaxDHTKind)
		case 2:
			v.Seq = f.uint(math.MaxUint64)
		case 3:
			v.TimeMS = f.uint(maxNumber)
		case 4:
			v.Data = f.bytes(MaxDHTData)
		}
	}
	return result(v, &f)
}
