package dialer_test

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A dial over QUIC costs three round trips until the peer is ready: the
// handshake of QUIC, identify, after which status is spoken, and status.
func TestRoundTripsUntilReady(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const trip = 20 * time.Millisecond // there and back
		a, b := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.2.0.1"})
		defer a.stop()
		defer b.stop()
		to := peer.AddrInfo{ID: b.host.ID(), Addrs: b.host.Addrs()}
		begin := time.Now()
		if err := a.ConnectPeer(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took >= 4*trip {
			t.Errorf("ready after %v, want three times %v and what the bytes take", took, trip)
		}
	})
}
