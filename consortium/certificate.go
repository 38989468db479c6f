package consortium

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"github.com/parley-p2p/parley/chain"
)

// Vote is one validator's signature over a header.
type Vote struct {
	Validator uint64
	Sig       Signature
}

// Certificate is the votes that prove a block, all given in one view: votes of
// two views are no decision, for honest validators may vote for another block in
// each. Certificates of one block differ from node to node: never hash or compare
// them.
type Certificate struct {
	View  uint64
	Votes []Vote // ids ascending
}

const voteBytes = 8 + len(Signature{})

// DecodeCertificate reads a certificate; ids ascend, no signature is verified.
func DecodeCertificate(b []byte) (Certificate, error) {
	c := cursor{b: b}
	cert := Certificate{View: c.number("view")}
	cert.Votes = make([]Vote, c.count(int(c.u16()), MaxValidators, voteBytes, "votes"))
	for i := range cert.Votes {
		cert.Votes[i].Validator = c.u64()
		c.fill(cert.Votes[i].Sig[:])
	}
	err := c.end()
	if err == nil {
		err = cert.checkOrder()
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("decode certificate: %w", err)
	}
	return cert, nil
}

// Encode gives the certificate's bytes.
func (c Certificate) Encode() []byte {
	b := make([]byte, 0, 8+2+len(c.Votes)*voteBytes)
	b = binary.BigEndian.AppendUint64(b, c.View)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Votes)))
	for _, v := range c.Votes {
		b = binary.BigEndian.AppendUint64(b, v.Validator)
		b = append(b, v.Sig[:]...)
	}
	return b
}

func (c Certificate) checkOrder() error {
	for i := 1; i < len(c.Votes); i++ {
		if a, b := c.Votes[i-1].Validator, c.Votes[i].Validator; a >= b {
			return fmt.Errorf("vote of validator %d stands after that of %d: want ascending ids", b, a)
		}
	}
	return nil
}

// Verify returns nil when c proves h: set is the one that h names, a quorum
// of it voted, and every vote is good.
func (c Certificate) Verify(h *Header, set *ValidatorSet) error {
	if h.Set != set.Hash() {
		return fmt.Errorf("certificate of block %d: the header names validator set %s, ours is %s", h.Height, h.Set.Short(), set.Hash().Short())
	}
	if len(c.Votes) < set.Quorum() {
		return fmt.Errorf("certificate of block %d: %d votes of %d validators: want at least %d", h.Height, len(c.Votes), set.Len(), set.Quorum())
	}
	if err := c.checkOrder(); err != nil {
		return fmt.Errorf("certificate of block %d: %w", h.Height, err)
	}
	msg := VoteMessage(h.Genesis, h.Hash(), h.Height, c.View)
	for _, v := range c.Votes {
		key, ok := set.Key(v.Validator)
		if !ok {
			return fmt.Errorf("certificate of block %d: validator %d is not in the set", h.Height, v.Validator)
		}
		if !key.verify(msg, v.Sig) {
			return fmt.Errorf("certificate of block %d: the signature of validator %d is wrong", h.Height, v.Validator)
		}
	}
	return nil
}

// VoteMessage is what a validator signs to vote for a header in a view, which is
// the one that it is in, and may be later than the view of the proposal.
func VoteMessage(genesis, header chain.Hash, height, view uint64) []byte {
	b := binary.BigEndian.AppendUint64(signedBytes(tagVote, genesis, header), height)
	return binary.BigEndian.AppendUint64(b, view)
}

// ParseVote reads the header, its height and the view out of a [VoteMessage] of a
// chain; ok is false for all else.
func ParseVote(genesis chain.Hash, msg []byte) (header chain.Hash, height, view uint64, ok bool) {
	n := len(msg) - len(header) - 16
	if n < 0 {
		return header, 0, 0, false
	}
	copy(header[:], msg[n:])
	height = binary.BigEndian.Uint64(msg[len(msg)-16:])
	view = binary.BigEndian.Uint64(msg[len(msg)-8:])
	return header, height, view, bytes.Equal(msg, VoteMessage(genesis, header, height, view))
}

// SignVote votes for a header.
func SignVote(key ed25519.PrivateKey, genesis, header chain.Hash, height, view uint64) Signature {
	return sign(key, VoteMessage(genesis, header, height, view))
}

// VerifyVote reports whether key voted for a header by [SignVote].
func VerifyVote(key PublicKey, genesis, header chain.Hash, height, view uint64, sig Signature) bool {
	return key.verify(VoteMessage(genesis, header, height, view), sig)
}
