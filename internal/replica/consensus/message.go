package consensus

import (
	"errors"
	"fmt"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"
)

// decodeMessage reads a message of another validator and refuses what the
// library takes for granted, and panics without.
func decodeMessage(b []byte) (*smartbftprotos.Message, error) {
	m := &smartbftprotos.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	switch c := m.GetContent().(type) {
	case nil:
		return nil, errors.New("no content")
	case *smartbftprotos.Message_ViewData:
		return m, checkViewData(c.ViewData)
	case *smartbftprotos.Message_NewView:
		seen := map[uint64]bool{}
		for _, v := range c.NewView.GetSignedViewData() {
			if seen[v.GetSigner()] { // the library reads the second one unchecked
				return nil, fmt.Errorf("new view has the data of validator %d twice", v.GetSigner())
			}
			seen[v.GetSigner()] = true
			if err := checkViewData(v); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// metadataOf reads the library's metadata of a proposal.
func metadataOf(raw []byte) (*smartbftprotos.ViewMetadata, error) {
	md := &smartbftprotos.ViewMetadata{}
	if err := proto.Unmarshal(raw, md); err != nil {
		return nil, fmt.Errorf("view metadata: %w", err)
	}
	return md, nil
}

func checkViewData(v *smartbftprotos.SignedViewData) error {
	data := &smartbftprotos.ViewData{}
	if err := proto.Unmarshal(v.GetRawViewData(), data); err != nil {
		return fmt.Errorf("view data: %w", err)
	}
	if data.LastDecision == nil {
		return errors.New("view data without a last decision")
	}
	for _, p := range []*smartbftprotos.Proposal{data.LastDecision, data.InFlightProposal} {
		if _, err := metadataOf(p.GetMetadata()); err != nil {
			return err
		}
	}
	if data.InFlightProposal != nil && len(data.InFlightProposal.Metadata) == 0 {
		return errors.New("view data with a proposal without metadata")
	}
	return nil
}

// outdated reports whether m is a new view that comes late: for a view that the
// library has begun already, or made on blocks well before our tip. The library
// takes both for its own. It begins the view anew, where it counts blocks from
// 0 and accuses the leader of counting wrongly, or panics at the block that was
// in flight then.
func outdated(m *smartbftprotos.Message, height, begun uint64) bool {
	view := m.GetNewView()
	if view == nil {
		return false
	}
	if next, ok := changesTo(m); ok && next <= begun {
		return true
	}
	last := uint64(0)
	for _, v := range view.GetSignedViewData() {
		data := &smartbftprotos.ViewData{}
		if proto.Unmarshal(v.GetRawViewData(), data) != nil {
			continue
		}
		if md, err := metadataOf(data.GetLastDecision().GetMetadata()); err == nil {
			last = max(last, md.LatestSequence)
		}
	}
	return last+1 < height
}
