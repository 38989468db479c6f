package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// A ping is answered at once, many of them slowly, and a second stream not at
// all.
func TestPing(t *testing.T) {
	h, guest := newHost(t, Options{}, "/ip4/127.0.0.1/tcp/0"), newHost(t, Options{})
	echo(t, guest, h, h.Network().ListenAddresses()[0])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	answers := ping.Ping(ctx, guest, h.ID())
	n := 0
	for n < pingBurst+4 {
		r := <-answers
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		if n++; n == 1 && r.RTT > 200*time.Millisecond {
			t.Errorf("the first answer took %s", r.RTT)
		}
	}
	if took := time.Since(start); took < 700*time.Millisecond {
		t.Errorf("%d answers came within %s, want no more than %d a second", n, took, pingRate)
	}
	st, err := guest.NewStream(ctx, h.ID(), ping.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, ping.PingSize)); err != nil {
		t.Fatal(err)
	}
	_ = st.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, network.ErrReset) {
		t.Errorf("a second stream: %v, want a reset", err)
	}
}
