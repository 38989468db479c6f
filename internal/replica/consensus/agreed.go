package consensus

import (
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// opened are the view data of a new view, and the height of their last decision.
func opened(nv *smartbftprotos.NewView) (all []*smartbftprotos.ViewData, last uint64) {
	for _, v := range nv.GetSignedViewData() {
		d := &smartbftprotos.ViewData{}
		if proto.Unmarshal(v.GetRawViewData(), d) != nil {
			continue
		}
		if md, err := metadataOf(d.GetLastDecision().GetMetadata()); err == nil {
			last = max(last, md.LatestSequence)
		}
		all = append(all, d)
	}
	return all, last
}

// inFlightAt is the block in flight of view data, nil where it is of another height.
func inFlightAt(d *smartbftprotos.ViewData, seq uint64) *smartbftprotos.Proposal {
	md, err := metadataOf(d.GetInFlightProposal().GetMetadata())
	if d.GetInFlightProposal() == nil || err != nil || md.LatestSequence != seq {
		return nil
	}
	return d.InFlightProposal
}

// agreed is the block in flight that view data agree on, as the library finds it: nil
// where they agree on none, or on nothing.
func agreed(data []*smartbftprotos.ViewData, seq uint64, faults, quorum int) *smartbftprotos.Proposal {
	for _, d := range data {
		p := inFlightAt(d, seq)
		if p == nil || !d.InFlightPrepared {
			continue
		}
		shown, silent := 0, 0
		for _, o := range data {
			if q := inFlightAt(o, seq); q == nil {
				silent++
			} else if proto.Equal(q, p) {
				shown++
			}
		}
		if shown > faults && shown+silent >= quorum {
			return p
		}
	}
	return nil
}

// refusesBlockOf reports whether a new view brings a block in flight that we may not
// vote for: the library would ask for the vote with a lock held, and the session
// would have to begin anew.
func (s *session) refusesBlockOf(view uint64, nv *smartbftprotos.NewView) bool {
	tip := s.ledger.Tip()
	data, last := opened(nv)
	if last != tip.Head.Height {
		return false // the library's matter
	}
	p := agreed(data, last+1, tip.Set.Faults(), tip.Set.Quorum())
	if p == nil {
		return false
	}
	h, err := consortium.DecodeHeader(p.Header)
	return err == nil && s.ballot.refuses(ownVote{last + 1, h.Hash(), view}, s.early.begunView())
}
