package dialer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/wire"
)

// A node that a static peer bans knows it at once, from its goodbye, and goes
// on knowing while that peer hangs up on it without a word.
func TestBannedIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1")})
		defer b.stop()
		time.Sleep(time.Minute)
		if s := b.only(t); s.State != dialer.Connected || s.ShutOut {
			t.Fatalf("before: %+v", s)
		}
		a.gate.SetDenied(map[peer.ID]struct{}{b.host.ID(): {}})
		a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeBanned, "banned")
		time.Sleep(time.Second)
		s := b.only(t)
		if s.Class != dialer.ClassNotAllowed || !s.ShutOut || !strings.Contains(s.LastError, "it has banned this node") {
			t.Errorf("a second after the ban: %+v", s)
		}
		if b.log.count(`level=WARN msg="static peer lost"`) != 1 || b.log.count(`why="it says that it has banned this node`) != 1 {
			t.Error("the log does not tell")
		}
		time.Sleep(2 * time.Minute)
		if s := b.only(t); s.Tries < 2 || !s.ShutOut || !strings.Contains(s.LastError, "UTC it said that it has banned this node, and since then it hangs up: ask its operator") {
			t.Errorf("two minutes after it: %+v", s)
		}
		a.gate.SetDenied(nil)
		time.Sleep(6 * time.Minute)
		if s := b.only(t); s.State != dialer.Connected || s.ShutOut || s.LastError != "" {
			t.Errorf("after its end: %+v", s)
		}
		// A goodbye of another kind shuts nobody out.
		a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeShutdown, "")
		time.Sleep(100 * time.Millisecond)
		if s := b.only(t); s.ShutOut || strings.Contains(s.LastError, "banned") {
			t.Errorf("after another goodbye: %+v", s)
		}
	})
}
