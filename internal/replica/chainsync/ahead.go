package chainsync

import "context"

// Ahead asks the ready peers that speak of a higher head than ours whether it
// is there. A head that the set of our tip did not sign may lie behind a change
// of the set, and counts: CatchUp finds out.
func (y *Syncer) Ahead(ctx context.Context) bool {
	tip := y.ledger.Tip()
	for _, p := range y.peers.Peers() {
		if p.Claimed.Height <= tip.Head.Height {
			continue
		}
		head, _, err := y.fetchHead(ctx, p.ID)
		if err != nil || head == nil || head.header.Height <= tip.Head.Height || head.header.Genesis != y.genesis {
			continue
		}
		if head.header.Set != tip.Set.Hash() || head.cert.Verify(head.header, tip.Set) == nil {
			return true
		}
	}
	return false
}
