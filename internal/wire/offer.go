package wire

import "github.com/parley-p2p/parley/chain"

// MaxOfferIDs bounds Offer and Want.
const MaxOfferIDs = 4096

// Offer opens a stream of records: the ids of records that the sender holds and
// that are still not committed.
type Offer struct {
	IDs []chain.Hash // 1 to MaxOfferIDs
}

// Encode gives at most MaxOffer bytes within the fields' limits.
func (o Offer) Encode() []byte {
	return putHashes(make([]byte, 0, len(o.IDs)*hashSize+16), 1, o.IDs)
}

// DecodeOffer refuses an offer of nothing.
func DecodeOffer(b []byte) (Offer, error) {
	var o Offer
	f := scan("offer", b, MaxOffer)
	for f.next() {
		if f.num == 1 {
			o.IDs = f.hashes(MaxOfferIDs)
		}
	}
	if len(o.IDs) == 0 {
		f.num = 1
		f.malformed("offer of nothing")
	}
	return result(o, &f)
}

// Want answers an Offer with those of its ids that the reader lacks. Frames of
// EncodeRecords of just those follow.
type Want struct {
	IDs []chain.Hash // up to MaxOfferIDs
}

// Encode gives at most MaxOffer bytes within the fields' limits.
func (w Want) Encode() []byte {
	return putHashes(make([]byte, 0, len(w.IDs)*hashSize+16), 1, w.IDs)
}

// DecodeWant reads the answer.
func DecodeWant(b []byte) (Want, error) {
	var w Want
	f := scan("want", b, MaxOffer)
	for f.next() {
		if f.num == 1 {
			w.IDs = f.hashes(MaxOfferIDs)
		}
	}
	return result(w, &f)
}
