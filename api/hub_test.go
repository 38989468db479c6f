package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/event"
)

func testMetrics(t *testing.T) *metrics {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// counted adds up the series of a counter.
func counted(t *testing.T, c prometheus.Collector, name string) (sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

func testQueue(t *testing.T, types string) *queue {
	t.Helper()
	f, err := newFilter(types)
	if err != nil {
		t.Fatal(err)
	}
	return newQueue("ws", f, testMetrics(t))
}

func numbered(name string, seq uint64) frame {
	return frame{seq: seq, name: name, data: fmt.Appendf(nil, `{"seq":%d}`, seq)}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		types    string
		in, out  []string
		wantFail bool
	}{
		{types: "", in: []string{"block.stored", "peer.connected"}, out: []string{"log.written", "stats.sampled", "peer.sampled"}},
		{types: "*", in: []string{"stats.sampled"}, out: []string{"log.written"}}, // the log is for admins: TestLogWritten
		{types: "peer.*,block.stored", in: []string{"peer.ready", "peer.sampled", "block.stored"}, out: []string{"head.changed", "peers.x"}},
		{types: "pe?r.r[e]ady", in: []string{"peer.ready"}, out: []string{"peer.connected"}},
		{types: "peer.[", wantFail: true},
		{types: "block.stored,peers.*", in: []string{"block.stored"}, out: []string{"peer.ready"}},
		{types: "blocks.stored,peers.*", wantFail: true},
		{types: "block.store", wantFail: true},
		{types: "dns.*", wantFail: true}, // there is none yet
		{types: strings.Repeat("*", 65), wantFail: true},
		{types: "a,,b", wantFail: true},
	} {
		f, err := newFilter(c.types)
		if (err != nil) != c.wantFail {
			t.Errorf("%q: %v", c.types, err)
			continue
		}
		for _, name := range c.in {
			if !f.match(name) {
				t.Errorf("%q leaves out %s", c.types, name)
			}
		}
		for _, name := range c.out {
			if !c.wantFail && f.match(name) {
				t.Errorf("%q lets in %s", c.types, name)
			}
		}
	}
	f, _ := newFilter("peer.*")
	if _, err := f.add(false, "peer.sampled"); err != nil || f.match("peer.sampled") || !f.match("peer.ready") {
		t.Error("unsubscribe from one of a group")
	}
	if _, err := f.add(true, "peer.sampled"); err != nil || !f.match("peer.sampled") || len(f.rules) != 2 {
		t.Errorf("subscribe again: %v", f.rules)
	}
	for i := range 2 * maxGlobs {
		if _, err := f.add(true, fmt.Sprintf("*[d%c%c]", 'a'+i/26, 'a'+i%26)); err != nil {
			if i+2 < maxGlobs {
				t.Error(err)
			}
			return
		}
	}
	t.Error("a filter grows without bound")
}

// TestLogsAreNotShared has two ask for the same, of whom one may see the log.
func TestLogsAreNotShared(t *testing.T) {
	for _, first := range []bool{true, false} {
		chosen := map[string][]frame{}
		for _, admin := range []bool{first, !first} {
			q := testQueue(t, "log.*")
			q.filter.seeLogs(admin)
			q.give([]frame{numbered("log.written", 1)}, chosen)
			if got, _ := q.take(time.Now()); len(got) > 0 != admin {
				t.Errorf("admin %v, asked first %v: %d lines of the log", admin, first == admin, len(got))
			}
		}
	}
}

// TestFiltersAreNotTakenForOthers has a client ask for what looks like the list of
// another, and take it back.
func TestFiltersAreNotTakenForOthers(t *testing.T) {
	const glob = "* true} {log.* false} {stats.* false} {peer.sampled"
	chosen := map[string][]frame{}
	forger := testQueue(t, "*")
	forger.filter.rules = []rule{{glob, true}, {glob, false}}
	forger.filter.key = forger.filter.sum()
	forger.give([]frame{numbered("block.stored", 1)}, chosen)
	q := testQueue(t, "")
	q.give([]frame{numbered("block.stored", 1)}, chosen)
	if got, _ := q.take(time.Now()); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

func TestSlowClient(t *testing.T) {
	q := testQueue(t, "*")
	for i := range uint64(queueSize) {
		q.push(numbered("block.stored", 100+i))
	}
	q.push(numbered("stats.sampled", 2000), numbered("head.changed", 2001), numbered("peer.sampled", 2002),
		numbered("stats.sampled", 2003), numbered("head.changed", 2004))
	frames, slow := q.take(time.Now())
	if slow || len(frames) != queueSize+3 {
		t.Fatalf("%d frames, slow %v", len(frames), slow)
	}
	if f := frames[queueSize-1]; f.seq != 100+queueSize-1 {
		t.Errorf("the last in the queue has seq %d", f.seq)
	}
	var lag struct {
		Type string
		Data lagged
	}
	if err := json.Unmarshal(frames[queueSize].data, &lag); err != nil || lag.Type != "lagged" || lag.Data != (lagged{2, 2001, 2004}) {
		t.Errorf("%s", frames[queueSize].data)
	}
	if a, b := frames[queueSize+1], frames[queueSize+2]; a.seq != 2002 || b.seq != 2003 {
		t.Errorf("samples %d and %d, want the newest of each type", a.seq, b.seq)
	}
	if n := counted(t, q.metrics.dropped, "parley_api_events_dropped_total"); n != 2 {
		t.Errorf("%v counted as dropped", n)
	}
	q.push(numbered("head.changed", 2005))
	if frames, _ := q.take(time.Now()); len(frames) != 1 || frames[0].seq != 2005 {
		t.Errorf("after the lag: %v", frames)
	}
}

// Samples of peers may be large: of those that wait only the newest does.
func TestOneSampleOfPeersWaits(t *testing.T) {
	q := testQueue(t, "*")
	for seq := range uint64(9) {
		q.push(numbered("peer.sampled", 2*seq+1), numbered("head.changed", 2*seq+2))
	}
	frames, slow := q.take(time.Now())
	if len(frames) != 10 || frames[8].seq != 17 || frames[8].name != "peer.sampled" || frames[9].seq != 18 || slow {
		t.Errorf("%d frames: %v", len(frames), frames)
	}
}

func TestThreeLagsInAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(t, "*")
		lag := func() bool {
			for i := range uint64(queueSize + 1) {
				q.push(numbered("block.stored", i+1))
			}
			_, slow := q.take(time.Now())
			return slow
		}
		for _, step := range []struct {
			pause time.Duration
			slow  bool
		}{{0, false}, {31 * time.Second, false}, {31 * time.Second, false}, {20 * time.Second, true}} {
			time.Sleep(step.pause)
			if got := lag(); got != step.slow {
				t.Errorf("after %s: too slow = %v, want %v", step.pause, got, step.slow)
			}
		}
	})
}

func TestHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := event.NewBus(64)
		h := newHub(bus, 2, testMetrics(t))
		stop := background(t, h.run)
		q := testQueue(t, "")
		bus.Publish(event.HeadChanged{Height: 1}, event.StatsSampled{}, event.HeadChanged{Height: 2})
		synctest.Wait()
		seq, err := h.join(q, "1.2.3.4")
		if err != nil || seq != bus.Seq() {
			t.Fatalf("join: seq %d of %d, %v", seq, bus.Seq(), err)
		}
		bus.Publish(event.HeadChanged{Height: 3}, event.StatsSampled{})
		synctest.Wait()
		frames, _ := q.take(time.Now())
		if len(frames) != 1 || frames[0].seq != seq+1 {
			t.Fatalf("live: %v", frames)
		}
		missed, ok := h.backlog(seq-3, seq, q.filter)
		if !ok || len(missed) != 2 || missed[0].seq != seq-2 || missed[1].seq != seq {
			t.Errorf("backlog: %v %v", missed, ok)
		}
		bus.Publish(event.PeerSampled{}, event.PeerSampled{}, event.HeadChanged{Height: 4})
		to := bus.Seq()
		bus.Publish(event.HeadChanged{Height: 5}) // comes by the queue
		if missed, ok := h.backlog(to-3, to, q.filter); !ok || len(missed) != 1 || missed[0].seq != to {
			t.Errorf("backlog with a sample that the bus forgot: %v %v", missed, ok)
		}
		if missed, ok := h.backlog(seq, seq, q.filter); !ok || len(missed) != 0 {
			t.Errorf("nothing missed: %v %v", missed, ok)
		}
		for _, since := range []uint64{0, seq - 100, seq + 1000} {
			if _, ok := h.backlog(since, seq, q.filter); ok {
				t.Errorf("since %d: resumed", since)
			}
		}
		if _, err := h.join(testQueue(t, ""), ""); err != nil {
			t.Error(err)
		}
		if _, err := h.join(testQueue(t, ""), ""); err == nil {
			t.Error("a third of two clients")
		}
		h.leave(q, "1.2.3.4")
		if len(h.byIP) != 0 {
			t.Error("an address is kept after its client left")
		}
		stop()
	})
}

func TestClientsOfOneAddress(t *testing.T) {
	h := newHub(event.NewBus(64), 1000, testMetrics(t))
	for range perIP {
		if _, err := h.join(testQueue(t, ""), "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.join(testQueue(t, ""), "192.0.2.1"); err == nil {
		t.Error("one address has more clients than it may")
	}
	if _, err := h.join(testQueue(t, ""), "192.0.2.2"); err != nil {
		t.Error(err)
	}
	h.stop()
	if _, err := h.join(testQueue(t, ""), "192.0.2.3"); err == nil {
		t.Error("a client came in while stopping")
	}
}

func TestCommands(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"ping":1}`: true, `{"ping":"x"}`: true, `{"subscribe":["dht.*"]}`: true, `{"unsubscribe":["peer.*"]}`: true,
		``: false, `1`: false, `[]`: false, `{}`: false, `{"sub":1}`: false, `{"subscribe":"x"}`: false, `{"subscribe":[]}`: false,
		`{"subscribe":["["]}`: false, `{"subscribe":["peer.reddy"]}`: true, `{"unsubscribe":["peers.*"]}`: true, `{"subscribe":["a"],"ping":1}`: false, `{"ping":1}{}`: false,
	} {
		if err := testQueue(t, "").obey([]byte(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	q := testQueue(t, "block.*")
	if err := q.obey([]byte(`{"ping":{"a":1}}`)); err != nil {
		t.Fatal(err)
	}
	if frames, _ := q.take(time.Now()); len(frames) != 1 || string(frames[0].data) != `{"type":"pong","data":{"ping":{"a":1}}}` {
		t.Errorf("%v", frames)
	}
	if err := q.obey([]byte(`{"subscribe":["peer.reddy","peer.ready"]}`)); err != nil {
		t.Fatal(err)
	}
	q.push(numbered("peer.ready", 1))
	if frames, _ := q.take(time.Now()); len(frames) != 2 || string(frames[0].data) != `{"type":"unknown_types","data":{"types":["peer.reddy"]}}` {
		t.Errorf("%v", frames)
	}
	if err := q.obey([]byte(`{"subscribe":["` + strings.Repeat(`x","`, maxGlobs) + `x"]}`)); err == nil {
		t.Error("unknown patterns without bound")
	}
}
