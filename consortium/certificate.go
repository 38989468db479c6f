package consortium

import (
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

// Certificate is the votes that prove a block, ids ascending. Certificates of
// one block differ from node to node: never hash or compare them.
type Certificate []Vote

const voteBytes = 8 + len(Signature{})

// DecodeCertificate reads a certificate; ids ascend, no signature is verified.
func DecodeCertificate(b []byte) (Certificate, error) {
	c := cursor{b: b}
	votes := make(Certificate, c.count(int(c.u16()), MaxValidators, voteBytes, "votes"))
	for i := range votes {
		votes[i].Validator = c.u64()
		c.fill(votes[i].Sig[:])
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("decode certificate: %w", err)
	}
	if err := votes.checkOrder(); err != nil {
		return nil, fmt.Errorf("decode certificate: %w", err)
	}
	return votes, nil
}

// Encode gives the certificate's bytes.
func (c Certificate) Encode() []byte {
	b := make([]byte, 0, 2+len(c)*voteBytes)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c)))
	for _, v := range c {
		b = binary.BigEndian.AppendUint64(b, v.Validator)
		b = append(b, v.Sig[:]...)
	}
	return b
}

func (c Certificate) checkOrder() error {
	for i := 1; i < len(c); i++ {
		if c[i-1].Validator >= c[i].Validator {
			return fmt.Errorf("vote of validator %d stands after that of %d: want ascending ids", c[i].Validator, c[i-1].Validator)
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
	if len(c) < set.Quorum() {
		return fmt.Errorf("certificate of block %d: %d votes of %d validators: want at least %d", h.Height, len(c), set.Len(), set.Quorum())
	}
	if err := c.checkOrder(); err != nil {
		return fmt.Errorf("certificate of block %d: %w", h.Height, err)
	}
	msg := VoteMessage(h.Genesis, h.Hash(), h.Height)
	for _, v := range c {
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

// VoteMessage is what a validator signs to vote for a header.
func VoteMessage(genesis, header chain.Hash, height uint64) []byte {
	return binary.BigEndian.AppendUint64(signedBytes(tagVote, genesis, header), height)
}

// SignVote votes for a header.
func SignVote(key ed25519.PrivateKey, genesis, header chain.Hash, height uint64) Signature {
	return sign(key, VoteMessage(genesis, header, height))
}

// VerifyVote reports whether key voted for a header by [SignVote].
func VerifyVote(key PublicKey, genesis, header chain.Hash, height uint64, sig Signature) bool {
	return key.verify(VoteMessage(genesis, header, height), sig)
}
