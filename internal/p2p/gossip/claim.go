package gossip

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	claimDomain   = "parley-claim"
	claimType     = "/parley/claim/"
	claimOverhead = 2 << 10 // envelope around a body: key and signature, RSA 4096 included

	claimMaxAge   = 120 * time.Second
	claimMaxAhead = 10 * time.Second
	maxOrigins    = 10_000 // per topic; the one not heard for longest goes
)

var (
	errStale = errors.New("claim too old, too far ahead or seen")
	errFast  = errors.New("more claims than the topic's rate")
)

// claim is the inside of a signed envelope, as a libp2p record.
type claim struct {
	topic string // last element of the wire name
	wire.Claim
}

func (c *claim) Domain() string                 { return claimDomain }
func (c *claim) Codec() []byte                  { return []byte(claimType + c.topic) }
func (c *claim) MarshalRecord() ([]byte, error) { return c.Claim.Encode(), nil }
func (c *claim) UnmarshalRecord(b []byte) (err error) {
	c.Claim, err = wire.DecodeClaim(b)
	return err
}

// sealClaim signs body as topic's claim number seq.
func sealClaim(key crypto.PrivKey, topic string, now time.Time, seq uint64, body []byte) ([]byte, error) {
	c := &claim{topic: topic, Claim: wire.Claim{TimeMS: uint64(now.UnixMilli()), Seq: seq, Body: body}}
	env, err := record.Seal(c, key)
	if err != nil {
		return nil, fmt.Errorf("sign claim: %w", err)
	}
	return env.Marshal()
}

// openClaim opens an envelope of topic. With an origin the signature is good,
// and an error is the origin's doing; without one it is the relayer's.
func openClaim(topic string, b []byte) (wire.Claim, peer.ID, error) {
	c := &claim{topic: topic}
	signed := &sealed{c}
	env, err := record.ConsumeTypedEnvelope(b, signed)
	if err != nil {
		return wire.Claim{}, "", chain.Invalid(chain.Malformed, "claim: %v", err)
	}
	if string(env.PayloadType) != claimType+topic {
		return wire.Claim{}, "", chain.Invalid(chain.Malformed, "claim of type %.80q, want %q", env.PayloadType, claimType+topic)
	}
	origin, err := peer.IDFromPublicKey(env.PublicKey)
	if err != nil {
		return wire.Claim{}, "", chain.Invalid(chain.Malformed, "claim: key: %v", err)
	}
	if err := c.UnmarshalRecord(env.RawPayload); err != nil {
		return wire.Claim{}, origin, chain.Invalid(chain.Malformed, "claim: %v", err)
	}
	return c.Claim, origin, nil
}

// sealed keeps the envelope's reader from decoding what is inside, so that a
// bad signature and a bad inside, which have different culprits, differ.
type sealed struct{ *claim }

func (*sealed) UnmarshalRecord([]byte) error { return nil }

// origins remembers the last claim of each origin on one topic.
type origins struct {
	rate rate.Limit

	mu     sync.Mutex // guards below
	recent *list.List // of *origin, newest in front
	byID   map[peer.ID]*list.Element
}

type origin struct {
	id    peer.ID
	seq   uint64
	speed *rate.Limiter
}

func newOrigins(perSecond int) *origins {
	return &origins{rate: rate.Limit(perSecond), recent: list.New(), byID: map[peer.ID]*list.Element{}}
}

// admit returns errStale or errFast for claims that are not to be looked at,
// and remembers the others.
func (o *origins) admit(id peer.ID, c wire.Claim, now time.Time) error {
	ms := uint64(now.UnixMilli())
	if c.TimeMS > ms+uint64(claimMaxAhead.Milliseconds()) || c.TimeMS+uint64(claimMaxAge.Milliseconds()) < ms {
		return errStale
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	e, ok := o.byID[id]
	if !ok {
		// Twice the rate at once: the network bunches what was sent evenly.
		e = o.recent.PushFront(&origin{id: id, speed: rate.NewLimiter(o.rate, 2*int(o.rate))})
		o.byID[id] = e
		if o.recent.Len() > maxOrigins {
			last := o.recent.Remove(o.recent.Back()).(*origin)
			delete(o.byID, last.id)
		}
	}
	o.recent.MoveToFront(e)
	og := e.Value.(*origin)
	if ok && c.Seq <= og.seq {
		return errStale
	}
	og.seq = c.Seq
	if !og.speed.AllowN(now, 1) {
		return errFast
	}
	return nil
}
