package dialer

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// The clocks of three peers that we dialled say that ours is wrong, two or any
// number of those that dialled us do not.
func TestClockSkew(t *testing.T) {
	for name, tt := range map[string]struct {
		ahead   []time.Duration
		inbound int // of the same clock as the last
		want    bool
	}{
		"right":     {[]time.Duration{0, time.Second, -time.Second}, 0, false},
		"one wrong": {[]time.Duration{0, 0, time.Hour}, 0, false},
		"behind":    {[]time.Duration{3 * time.Second, 3 * time.Second, 0}, 0, true},
		"before":    {[]time.Duration{-time.Hour, -3 * time.Second, -3 * time.Second, 0}, 0, true},
		"too few":   {[]time.Duration{time.Hour, time.Hour}, 0, false},
		"strangers": {[]time.Duration{0, 0, time.Hour}, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := doors(t, 8, nil)
			peers := map[peer.ID]Peer{}
			for i, a := range tt.ahead {
				peers[peer.ID(fmt.Sprint(i))] = Peer{Ready: true, Ahead: a}
			}
			for i := range tt.inbound {
				peers[peer.ID(fmt.Sprint("in", i))] = Peer{Ready: true, Inbound: true, Ahead: tt.ahead[len(tt.ahead)-1]}
			}
			s.clocks(peers)
			if on := s.fns.Alarms.On(alarmSkew); on != tt.want {
				t.Errorf("alarm %v, want %v", on, tt.want)
			}
			s.clocks(nil)
			if s.fns.Alarms.On(alarmSkew) {
				t.Error("the alarm stands with nobody there")
			}
		})
	}
}
