package consortium

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"

	"github.com/parley-p2p/parley/chain"
)

// Subject and media type of every record of KindConfig.
const (
	SubjectConfig   = "parley/config"
	MediaTypeConfig = "application/vnd.parley.config"
)

// ConfigChange is the body of a config record: the new config and the admins
// of the current one that approve it.
type ConfigChange struct {
	Config    Config
	Approvals []Approval
}

// Approval is an admin's signature over a config.
type Approval struct {
	Admin PublicKey
	Sig   Signature
}

// Approve signs c as an admin.
func Approve(key ed25519.PrivateKey, genesis chain.Hash, c *Config) Approval {
	return Approval{Admin: PublicKeyOf(key), Sig: sign(key, approveMessage(genesis, c))}
}

func approveMessage(genesis chain.Hash, c *Config) []byte {
	return signedBytes(tagApprove, genesis, sha256.Sum256(c.Encode()))
}

// DecodeConfigChange reads the body of a config record. Every error is a
// *RecordError.
func DecodeConfigChange(b []byte) (*ConfigChange, error) {
	if len(b) > MaxBody {
		return nil, Refuse(TooLarge, "config change of %d bytes is over the limit of %d", len(b), MaxBody)
	}
	c := cursor{b: b}
	change := &ConfigChange{Config: *decodeConfig(&c)}
	change.Approvals = make([]Approval, c.count(int(c.u8()), MaxAdmins, len(Approval{}.Admin)+len(Approval{}.Sig), "approvals"))
	for i := range change.Approvals {
		c.fill(change.Approvals[i].Admin[:])
		c.fill(change.Approvals[i].Sig[:])
	}
	if err := c.end(); err != nil {
		return nil, Refuse(Malformed, "config change %v", err)
	}
	if err := change.Config.Check(); err != nil {
		return nil, Refuse(Malformed, "config change: %v", err)
	}
	return change, nil
}

// Record is the config record that carries the change, not signed yet. Its
// author counts for nothing: the approvals do.
func (c *ConfigChange) Record(nonce uint64) *Record {
	return &Record{Kind: KindConfig, Nonce: nonce, Subject: SubjectConfig, MediaType: MediaTypeConfig, Body: c.Encode()}
}

// Encode gives the change's bytes.
func (c *ConfigChange) Encode() []byte {
	b := append(c.Config.Encode(), byte(len(c.Approvals)))
	for _, a := range c.Approvals {
		b = append(b, a.Admin[:]...)
		b = append(b, a.Sig[:]...)
	}
	return b
}

// CheckChange tells whether change may follow current on the chain with this
// genesis hash. Every error is a *RecordError: stale_config when the epoch is
// not the next one, not_authorised when approvals are missing or wrong, else
// malformed or too_large.
func CheckChange(current *Config, change *ConfigChange, genesis chain.Hash) error {
	if err := CheckProposal(current, change, genesis); err != nil {
		return err
	}
	if n := len(change.Approvals); n < int(current.Threshold) {
		return Refuse(NotAuthorised, "%d admins approve: want %d", n, current.Threshold)
	}
	return nil
}

// CheckProposal is [CheckChange] of a change that may lack approvals still.
func CheckProposal(current *Config, change *ConfigChange, genesis chain.Hash) error {
	next := &change.Config
	if next.Epoch != current.Epoch+1 {
		return Refuse(StaleConfig, "config of epoch %d: want %d, the one after the current epoch", next.Epoch, current.Epoch+1)
	}
	if err := next.Check(); err != nil {
		return Refuse(Malformed, "config of epoch %d: %v", next.Epoch, err)
	}
	if n := len(change.Encode()); n > MaxBody {
		return Refuse(TooLarge, "config change of %d bytes is over the limit of %d: fewer authors or addresses", n, MaxBody)
	}
	if err := checkApprovals(current, change, genesis); err != nil {
		return err
	}
	return checkIDs(current, next)
}

func checkApprovals(current *Config, change *ConfigChange, genesis chain.Hash) error {
	msg := approveMessage(genesis, &change.Config)
	for i, a := range change.Approvals {
		switch {
		case !slices.Contains(current.Admins, a.Admin):
			return Refuse(NotAuthorised, "%s approves and is no admin of epoch %d", a.Admin, current.Epoch)
		case slices.ContainsFunc(change.Approvals[:i], func(b Approval) bool { return b.Admin == a.Admin }):
			return Refuse(NotAuthorised, "admin %s approves twice", a.Admin)
		case !a.Admin.verify(msg, a.Sig):
			return Refuse(NotAuthorised, "the approval of admin %s is not over this config on chain %s", a.Admin, genesis.Short())
		}
	}
	return nil
}

// checkIDs keeps an id from ever naming two keys.
func checkIDs(current, next *Config) error {
	set := current.Set()
	for _, v := range next.Validators {
		key, kept := set.Key(v.ID)
		switch {
		case kept && key != v.Key:
			return Refuse(Malformed, "validator %d changes its key: give the new key a new id, from %d", v.ID, current.NextID)
		case !kept && v.ID < current.NextID:
			return Refuse(Malformed, "validator %d is new: its id must be at least %d, for ids are never used again", v.ID, current.NextID)
		}
	}
	if next.NextID < current.NextID {
		return Refuse(Malformed, "next_id goes back from %d to %d: ids are never used again", current.NextID, next.NextID)
	}
	return nil
}

func compareKeys(a, b PublicKey) int { return bytes.Compare(a[:], b[:]) }
