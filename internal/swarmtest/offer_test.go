package swarmtest

import (
	"context"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// A follower takes a record while the only validator is away: it is committed
// soon after the validator is back, however long it was away.
func TestRecordWaitsForValidator(t *testing.T) {
	Run(t, func(s *Swarm) {
		v := s.Add()
		v.Start()
		f := s.Add(Peers(v.Addr()))
		f.Start()
		s.Until("the follower is ready", 60*time.Second, func() bool { return f.Health().Status == "ready" })
		v.Stop()
		ctx, cancel := context.WithTimeout(s.T.Context(), time.Minute)
		defer cancel()
		r, err := f.Node.Submit(ctx, parley.Draft{Subject: "x", Body: []byte(`{}`)}, parley.Committed)
		if err != nil || r.Status != "pending" {
			s.T.Fatalf("without a validator: %s, %v", r.Status, err)
		}
		v.Start()
		s.Until("they are connected", time.Minute, func() bool { return f.PeerCount().Connected == 1 })
		s.Until("the record is committed", 3*time.Second, func() bool {
			got, err := v.Record(r.ID)
			return err == nil && got.Status == "committed"
		})
	})
}
