package swarmtest

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/wire"
)

// A ready peer has so many streams of each protocol of the chain and no more,
// and each of them ten seconds for its request. Waiting costs it nothing.
func TestStreamsOfAPeer(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		s.Genesis("streams", a)
		a.Start()
		v := s.newVillain()
		defer v.close()
		if err := v.come(a); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		for name, most := range map[string]int{"sync/1": 16, "records/1": 4} {
			id := protocol.ID("/parley/" + v.net + "/" + name)
			start := time.Now()
			ends := make(chan time.Duration, most+5)
			for range most + 5 {
				st, err := v.open(a, id)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := st.Write([]byte{0x80}); err != nil { // half a length
					t.Fatal(err)
				}
				go func() {
					if _, err := io.ReadAll(st); !errors.Is(err, network.ErrReset) {
						t.Errorf("%s: a stream ended by %v", name, err)
					}
					ends <- time.Since(start)
				}()
			}
			for i := range most + 5 { // whoever came last is refused, which need not be the one that was opened last
				switch took := <-ends; {
				case i < 5 && took > time.Second:
					t.Errorf("%s: %d of %d streams were refused, want 5", name, i, most+5)
				case i >= 5 && (took < 9*time.Second || took > 11*time.Second):
					t.Errorf("%s: a stream was closed after %s, want 10 s", name, took)
				}
			}
		}
		if got, err := v.ask(a, protocol.ID("/parley/"+v.net+"/sync/1"), frame(wire.SyncRequest{Kind: wire.SyncHead}.Encode())); err != nil || len(got) != 0 {
			t.Errorf("asked after that: %d bytes, %v", len(got), err)
		}
		if got := a.charges(v); len(got) != 0 {
			t.Errorf("charged with %v", got)
		}
	})
}

// An alarm is in the status, in the log, in the event stream, a figure and a
// finding, and so is its end.
func TestAlarmIsToldEverywhere(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		s.Genesis("alarms", a)
		v := s.newVillain()
		defer v.close()
		a.cfg.P2P.TrustedPeers = []string{v.id().String()}
		a.Start()
		sub := a.Events().Subscribe()
		defer sub.Close()
		told := ""
		stands := func() map[string]bool {
			events, _ := sub.Take(4096)
			for _, e := range events {
				if e.Type == "alarm.raised" || e.Type == "alarm.cleared" || e.Type == "finding.changed" {
					told += e.Type + " "
				}
			}
			return map[string]bool{
				"status": slices.ContainsFunc(a.Node.Status().Alarms, func(v parley.Alarm) bool { return v.Code == "member_misbehaving" }),
				"figure": a.metric("parley_alarm_active", "member_misbehaving") == 1,
				"findings": slices.ContainsFunc(a.Findings(), func(f parley.Finding) bool {
					return f.Code == "PLY-522" && f.Title == "member_misbehaving" && f.Severity == "warn" && strings.Contains(f.Why, v.id().String())
				}),
			}
		}
		if err := v.come(a); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		for range 2 {
			v.says(a, "sync/1", frame([]byte("GET / HTTP/1.1")))
		}
		s.Until("it is parted with", 5*time.Second, func() bool { return !connected(a, v.id()) })
		time.Sleep(6 * time.Second) // findings are looked for each 5 s
		for where, on := range stands() {
			if !on {
				t.Errorf("the alarm is not in the %s", where)
			}
		}
		if told != "alarm.raised finding.changed " || !a.Log.Has("alarm raised", "member_misbehaving") {
			t.Errorf("told %q", told)
		}
		time.Sleep(32 * time.Minute)
		for where, on := range stands() {
			if on {
				t.Errorf("half an hour later the alarm is in the %s", where)
			}
		}
		if told != "alarm.raised finding.changed alarm.cleared finding.changed " || !a.Log.Has("alarm cleared", "member_misbehaving") {
			t.Errorf("half an hour later: told %q", told)
		}
	})
}
