package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// samples holds one of each event, with every field set.
func samples(t *testing.T) []Event {
	t.Helper()
	id, err := peer.Decode("12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj")
	if err != nil {
		t.Fatal(err)
	}
	h := chain.Hash{0xab, 31: 0xcd}
	at := time.UnixMilli(1795165200123).UTC()
	connected := PeerConnected{Peer: id, Direction: "outbound", Addr: "/ip4/192.0.2.7/tcp/8080", Transport: "tcp", Source: "static", Slot: "static"}
	return []Event{
		NodeStarted{Version: "v1.0.0", Network: "consortium", Peer: id},
		NodeStopping{Why: "asked to stop"},
		ConfigReloaded{Changed: []string{"p2p.allow_peers"}},
		connected,
		PeerReady{PeerConnected: connected, Agent: "parley/v1.0.0/linux-amd64", Name: "node2", Height: 812, Hash: h, Services: []string{"full"}},
		PeerDisconnected{Peer: id, Direction: "inbound", Addr: "/ip4/192.0.2.7/tcp/8080", By: "them", Reason: "shutdown", Goodbye: 1, Text: "bye", DurationS: 1.5},
		PeerRefused{Peer: id, Direction: "inbound", Addr: "/ip4/192.0.2.7/tcp/8080", Place: "handshake", By: "us", Reason: "another chain", More: 3},
		PeerPenalized{Peer: id, Reason: chain.Malformed, Points: 25, Total: 50, Detail: "frame"},
		PeerDiscouraged{Peer: id, Points: 50},
		PeerBanned{Target: "203.0.113.0/24", Kind: "cidr", Reason: "manual", Note: "scanner", Origin: "operator", Actor: "token:ops", Created: at, Until: &at, Offences: 1, Closes: []peer.ID{id}},
		PeerUnbanned{Target: "203.0.113.0/24", By: "token:ops"},
		StaticPeerChanged{Item: "node1:8080", ID: id, State: "trying", Class: "refused", NextAt: &at},
		PeerSampled{Peers: []PeerSample{{ID: id, LatencyMS: 12.5, Height: 812, Score: 7, BytesInS: 1024, BytesOutS: 512.5}}},
		BlockStored{Height: 812, Hash: h, PrevHash: h, Proposer: 1, RecordCount: 50, SizeBytes: 20480, From: id, Source: "gossip", DelayMS: 12},
		HeadChanged{Height: 812, Hash: h},
		SubtreeAnnounced{ID: h, Height: 812, Index: 1, Records: 50, From: id},
		MiningOn{Hash: h, PrevHash: h, Height: 812, Miner: "node1", RecordCount: 50, SizeBytes: 20480, From: id},
		RecordCommitted{ID: h, Subject: "pkg:deb/debian/0ad", Author: "ab", Height: 812, Index: 3},
		RecordRejected{ID: h, Reason: "expired", Detail: "not_after has passed", Height: 812, Author: "ab", Peer: id, Final: true},
		SyncChanged{State: "syncing", Target: 812, LagBlocks: 5, ETAS: 1.5, BlocksS: 3.5, BytesS: 4096},
		LedgerChecked{OK: true, Height: 812, Detail: "the certificate is wrong"},
		ViewChanged{View: 3, Leader: 2, Why: "leader_failed"},
		ValidatorsChanged{Height: 812, Added: []uint64{4, 5}, Removed: []uint64{1}, Quorum: 3},
		DHTDisagreement{Key: "/parley/note/" + id.String(), Authors: []peer.ID{id}},
		AlarmRaised{Code: "sybil_region", Text: "too many peers near one key", Evidence: map[string]any{"key": "ab", "groups": 3}},
		AlarmCleared{Code: "sybil_region", Text: "nothing seen for 30m0s", Evidence: map[string]any{"lookups": 12}},
		FindingChanged{Code: "PLY-105", Severity: "crit", Title: "disk_low", Why: "12 MiB are free"},
		MeshChanged{Topic: "block", Mesh: 5, Low: 6, High: 12},
		HealthChanged{From: "ready", To: "not_ready", Reasons: []string{"peers: 0 of 1 peers: see parley peers static [PLY-504]"}},
		StatsSampled{Inbound: 1, Outbound: 2, BytesInS: 3, BytesOutS: 4, MessagesS: map[string]float64{"block": 1}, RecordsS: 5, Mempool: 6},
		LogWritten{Level: "warn", Room: "p2p.dialer", Msg: "peer not reached", Attrs: map[string]json.RawMessage{"peer": json.RawMessage(`"n2"`)}},
	}
}

// The JSON of each event is API: the golden file is read in the diff.
func TestGolden(t *testing.T) {
	var got bytes.Buffer
	for _, e := range samples(t) {
		v := reflect.ValueOf(e)
		for i := range v.NumField() {
			if v.Field(i).IsZero() && v.Type().Field(i).Name != "Depth" {
				t.Errorf("%s: field %s of the sample is not set", e.Type(), v.Type().Field(i).Name)
			}
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(e.Type() + " " + string(b) + "\n")
	}
	const file = "testdata/events.golden"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("JSON of events changed (-want +got); it is API, see -update:\n%s", d)
	}
}

// Every event of the package has its line in the golden file.
func TestEveryEventHasASample(t *testing.T) {
	source, err := os.ReadFile("event.go")
	if err != nil {
		t.Fatal(err)
	}
	alarms, err := os.ReadFile("alarm.go")
	if err != nil {
		t.Fatal(err)
	}
	sampled := map[string]bool{}
	for _, e := range samples(t) {
		sampled[reflect.TypeOf(e).Name()] = true
	}
	made := regexp.MustCompile(`(?m)^func \((?:\w+ )?(\w+)\) Type\(\) string`).FindAllSubmatch(append(source, alarms...), -1)
	for _, m := range made {
		if !sampled[string(m[1])] {
			t.Errorf("%s has no sample, so its JSON is not pinned", m[1])
		}
	}
	if len(made) != len(sampled) || len(made) < 30 || len(all) != len(made) {
		t.Errorf("%d events are found, %d have a sample, %d a type that is known", len(made), len(sampled), len(all))
	}
	for _, e := range samples(t) {
		if !slices.Contains(Types(), e.Type()) {
			t.Errorf("%s is no known type", e.Type())
		}
	}
}

func heads(n, from int) (events []Event) {
	for i := range n {
		events = append(events, HeadChanged{Height: uint64(from + i)})
	}
	return events
}

func TestBusKeepsOrderAndCountsLoss(t *testing.T) {
	b := NewBus(64)
	early := b.Subscribe()
	defer early.Close()
	b.Publish(heads(100, 0)...)
	events, lost := early.Take(10)
	if lost != 36 || len(events) != 10 {
		t.Fatalf("took %d, lost %d; want 10 and 36", len(events), lost)
	}
	for i, e := range events {
		if h := e.Data.(HeadChanged).Height; h != uint64(36+i) || e.Seq != events[0].Seq+uint64(i) || e.Type != "head.changed" || e.V != 1 {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	select {
	case <-early.Wake():
	default:
		t.Error("more waits, and Wake does not say so")
	}
	if n := early.Behind(); n != 54 {
		t.Errorf("behind by %d, want 54", n)
	}
}

func TestBusResumes(t *testing.T) {
	b := NewBus(64)
	before := b.Seq()
	b.Publish(heads(10, 0)...)
	s, ok := b.SubscribeSince(before + 4)
	defer s.Close()
	events, lost := s.Take(100)
	if !ok || lost != 0 || len(events) != 6 || events[0].Data.(HeadChanged).Height != 4 {
		t.Errorf("resumed %v, lost %d, %d events", ok, lost, len(events))
	}
	b.Publish(heads(100, 10)...)
	for _, seq := range []uint64{before + 1, b.Seq() + 1} {
		s, ok := b.SubscribeSince(seq)
		if ok {
			t.Errorf("resumed at %d of [%d, %d]", seq, before, b.Seq())
		}
		if events, lost := s.Take(1); len(events) != 0 || lost != 0 {
			t.Errorf("a fresh subscription has %d events, %d lost", len(events), lost)
		}
		s.Close()
	}
}

func BenchmarkPublish(b *testing.B) {
	bus := NewBus(16384)
	for range 16 {
		defer bus.Subscribe().Close()
	}
	b.ReportAllocs()
	for b.Loop() {
		bus.Publish(HeadChanged{Height: 1})
	}
}

// TestSeqRisesOverRestarts: also over two within a second, and its first
// number is the start's time in units of a second / 2²⁰.
func TestSeqRisesOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last uint64
		for range 200 {
			b := NewBus(64)
			_, first := b.SubscribeAll()
			if now := float64(time.Now().UnixNano()) / 1e9; first <= last || first>>20 != uint64(time.Now().Unix()) || float64(first)/(1<<20) > now+1e-3 {
				t.Fatalf("the first number at %s is %d, after %d", time.Now(), first, last)
			}
			for range 1000 {
				b.Publish(NodeStopping{})
			}
			last = b.Seq()
			time.Sleep(13 * time.Millisecond)
		}
	})
}

// Of samples of peers, which may be large, the ring holds the newest: the others
// are neither read, nor counted as lost.
func TestBusKeepsTheNewestSample(t *testing.T) {
	b := NewBus(64)
	before := b.Seq()
	for i := range 5 {
		b.Publish(HeadChanged{Height: uint64(i)}, PeerSampled{Peers: make([]PeerSample, i)})
	}
	s, ok := b.SubscribeSince(before)
	defer s.Close()
	events, lost := s.Take(100)
	if !ok || lost != 0 || len(events) != 6 || events[4].Data.(HeadChanged).Height != 4 || len(events[5].Data.(PeerSampled).Peers) != 4 || events[5].Seq != before+10 {
		t.Errorf("resumed %v, lost %d: %+v", ok, lost, events)
	}
	all := func(string) bool { return true }
	if n := b.Count(before+1, before+11, all); n != 6 {
		t.Errorf("%d events count, want 6", n)
	}
	b.Publish(heads(100, 0)...) // the sample has left the ring, and its place is another's
	b.Publish(PeerSampled{})
	if n := b.Count(b.Seq()-63, b.Seq()+1, all); n != 64 {
		t.Errorf("%d events count, want 64", n)
	}
	few, _ := s.Take(10)
	if rest, _ := s.Take(100); len(few) != 10 || len(rest) != 54 || rest[53].Type != "peer.sampled" {
		t.Errorf("%d and %d events", len(few), len(rest))
	}
}

// docs/events.md has each event with the fields of its data, and no other.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (.*) \\| .* \\|$").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = m[2]
	}
	for _, e := range samples(t) {
		row, is := rows[e.Type()]
		if !is {
			t.Errorf("docs/events.md does not have %s", e.Type())
		}
		delete(rows, e.Type())
		if e.Type() == "peer.ready" {
			row += "`peer` `direction` `addr` `transport` `source` `slot`"
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(b, &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			if !strings.Contains(row, "`"+name+"`") {
				t.Errorf("docs/events.md: the row of %s does not have %s", e.Type(), name)
			}
		}
	}
	for name := range rows {
		t.Errorf("docs/events.md has %s, which is none", name)
	}
}
