package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

func TestNetOf(t *testing.T) {
	if got := NetOf("main"); got != "82bb8147" {
		t.Errorf("<net> of main is %s", got)
	}
}

// At most 256 verdicts are awaited; what comes above is dropped and counted,
// and place is made by verdicts and by time.
func TestAsksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		x := attach(t, s, txHello)
		results := make(chan error, 2*maxAsks)
		for i := range maxAsks {
			go func() { results <- w.deliver(t.Context(), "tx", fmt.Sprint(i)) }()
		}
		synctest.Wait()
		if err := w.deliver(t.Context(), "tx", "one more"); !errors.Is(err, chain.ErrBusy) {
			t.Errorf("the 257th: %v", err)
		}
		if lost := next[Lost](t, x); lost.Messages != 1 {
			t.Errorf("told of %d messages that it is not asked about", lost.Messages)
		}
		first := next[Validate](t, x)
		if err := x.Verdict(first.ID, Reject, "spam"); err != nil {
			t.Fatal(err)
		}
		var bad *chain.InvalidError
		if err := <-results; !errors.As(err, &bad) || bad.Offence != chain.Spam {
			t.Errorf("rejected as spam: %v", err)
		}
		go func() { results <- w.deliver(t.Context(), "tx", "again") }()
		synctest.Wait()
		time.Sleep(s.cfg.ValidateTimeout)
		synctest.Wait()
		for range maxAsks {
			if err := <-results; !errors.Is(err, chain.ErrUnready) {
				t.Fatalf("without a verdict: %v", err)
			}
		}
		if len(s.asks) != 0 || s.asked != 0 {
			t.Errorf("%d asks of %d bytes are left", len(s.asks), s.asked)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if item, err := x.Next(ctx); err != nil || item != (Lost{maxAsks}) { // their time is over: nobody is asked in vain
			t.Errorf("told %+v, %v", item, err)
		}
		for verdict, want := range map[string]float64{"busy": 1, "reject": 1, "timeout": maxAsks} {
			if got := counted(t, s, "tx", verdict); got != want {
				t.Errorf("%v verdicts %s, want %v", got, verdict, want)
			}
		}
	})
}

// counted reads the counter of verdicts.
func counted(t *testing.T, s *Sidecar, topic, verdict string) float64 {
	t.Helper()
	return valueOf(t, s.metrics.verdicts, topic, verdict)
}

// valueOf is that of the counter with these values of its labels.
func valueOf(t *testing.T, c prometheus.Collector, labels ...string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		var values []string
		for _, l := range m.GetLabel() {
			values = append(values, l.GetValue())
		}
		if slices.Equal(values, labels) {
			return m.GetCounter().GetValue()
		}
	}
	return -1
}

// A reader that does not read is ended. A program that does not read what it
// has published can publish no more until it does.
func TestSlowOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		x := attach(t, s, Hello{API: APIVersion, Topics: []Topic{{Name: "free"}}})
		r, err := s.Subscribe(nil)
		if err != nil {
			t.Fatal(err)
		}
		published := 0
		for err == nil && published <= maxWaiting {
			if err = s.Send(t.Context(), "free", []byte(fmt.Sprint(published))); err == nil {
				published++
			}
		}
		if !errors.Is(err, chain.ErrBusy) || published < maxWaiting/2 {
			t.Errorf("after %d messages: %v", published, err)
		}
		for range maxWaiting - published {
			if err := w.deliver(t.Context(), "free", "of a peer"); err != nil {
				t.Fatal(err)
			}
		}
		s.mu.Lock()
		if len(s.readers) != 1 {
			t.Error("a reader is ended before its queue is over its bound")
		}
		s.mu.Unlock()
		if err := w.deliver(t.Context(), "free", "last"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(t.Context()); !errors.Is(err, ErrSlow) || len(s.readers) != 0 {
			t.Errorf("slow reader: %v, %d readers", err, len(s.readers))
		}
		if n, err := s.SendAll(t.Context(), "free", [][]byte{[]byte("one")}); n != 0 || !errors.Is(err, chain.ErrBusy) {
			t.Errorf("nothing is read: %d sent, %v", n, err)
		}
		for range published {
			item, err := x.Next(t.Context())
			if m, ok := item.(Message); err != nil || !ok {
				t.Fatalf("%+v, %v", m, err)
			}
		}
		if err := s.Send(t.Context(), "free", []byte("again")); err != nil {
			t.Errorf("all is read: %v", err)
		}
		var size *SizeError
		if n, err := s.SendAll(t.Context(), "free", [][]byte{[]byte("a"), []byte("b"), make([]byte, 2<<20), []byte("c")}); n != 2 || !errors.As(err, &size) {
			t.Errorf("%d sent before one that is too large, %v", n, err)
		}
		if n, err := s.SendAll(t.Context(), "nothing", [][]byte{[]byte("a")}); n != 0 || !errors.Is(err, ErrNoTopic) {
			t.Errorf("%d sent to no topic, %v", n, err)
		}
		if n, err := s.SendAll(t.Context(), "free", nil); n != 0 || err != nil {
			t.Errorf("%d of nothing sent, %v", n, err)
		}
		big := strings.Repeat("x", 1<<20)
		if r, err = s.Subscribe([]string{"free"}); err != nil {
			t.Fatal(err)
		}
		for range maxWaitingBytes>>20 + 1 {
			if err := w.deliver(t.Context(), "free", big); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Next(t.Context()); !errors.Is(err, ErrSlow) {
			t.Errorf("reader with more bytes than may wait: %v", err)
		}
	})
}

// What a program declares is served instead of what the one before declared, on
// top of the configuration; half a minute after it left the configuration alone.
func TestTopicsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, func(c *config.Sidecar) { c.Topics = config.SidecarTopics{{Name: "base", Max: 1000, Validate: true}} })
		synctest.Wait()
		serves := func(want ...string) {
			t.Helper()
			if got := w.serves(); !slices.Equal(got, want) {
				t.Errorf("served are %q, want %q", got, want)
			}
		}
		serves("base")
		attach(t, s, txHello)
		serves("base", "tx")
		x := attach(t, s, Hello{API: APIVersion, Topics: []Topic{{Name: "base", MaxBytes: 5}, {Name: "other"}}})
		serves("base", "other")
		if w.topics["base"].MaxBytes != 5 || len(w.protocols) != 0 {
			t.Errorf("topic base takes %d bytes, %d protocols", w.topics["base"].MaxBytes, len(w.protocols))
		}
		x.Close()
		time.Sleep(keepFor - time.Millisecond)
		serves("base", "other")
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		serves("base")
		if w.topics["base"].MaxBytes != 1000 {
			t.Errorf("topic base takes %d bytes", w.topics["base"].MaxBytes)
		}
		many := Hello{API: APIVersion}
		for i := range maxNames {
			many.Topics = append(many.Topics, Topic{Name: fmt.Sprint("t", i)})
		}
		if _, err := s.Attach(t.Context(), many); err == nil || !strings.Contains(err.Error(), "at most 32") {
			t.Errorf("33 topics: %v", err)
		}
		for round := range maxEver/(maxNames-1) + 1 {
			for i := range many.Topics[1:] {
				many.Topics[i+1].Name = fmt.Sprint("t", round, "-", i)
			}
			h := many
			h.Topics = many.Topics[1:]
			if x, err := s.Attach(t.Context(), h); err == nil {
				x.Close()
			} else if round < maxEver/(maxNames-1)-1 || !strings.Contains(err.Error(), "restart") {
				t.Fatalf("round %d: %v", round, err)
			} else {
				return
			}
		}
		t.Error("topics without end are taken")
	})
}

// A peer that does not read its answer holds up neither the program nor others.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		x := attach(t, s, txHello)
		slow, slowEnded := w.ask(t, other)
		in := next[Incoming](t, x)
		if in.Protocol != "sync" || in.Peer != other || string(in.Data) != "all" {
			t.Errorf("incoming %+v", in)
		}
		part := make([]byte, MaxChunk)
		for range 10 { // 40 MiB, of which the peer reads nothing yet
			if err := x.Reply(in.ID, part, false, ""); err != nil {
				t.Fatal(err)
			}
		}
		s.mu.Lock()
		if bytes := s.incoming[in.ID].bytes; bytes > maxBacklog {
			t.Errorf("%d bytes wait", bytes)
		}
		s.mu.Unlock()
		var last wire.AppAnswer
		for !last.Last {
			b, err := wire.ReadFrame(slow, wire.MaxAppAnswer)
			if err != nil {
				t.Fatal(err)
			}
			if last, err = wire.DecodeAppAnswer(b); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(last.Error, "faster") {
			t.Errorf("the end of a slow answer: %q", last.Error)
		}
		if err := <-slowEnded; err != nil {
			t.Error(err)
		}
		_, _ = w.ask(t, other)
		in = next[Incoming](t, x)
		for range maxBacklog / overhead * 2 { // parts of nothing take memory too
			if err := x.Reply(in.ID, nil, false, ""); err != nil {
				t.Fatal(err)
			}
		}
		s.mu.Lock()
		if parts := len(s.incoming[in.ID].parts); parts > maxBacklog/overhead {
			t.Errorf("%d empty parts wait", parts)
		}
		s.mu.Unlock()
		time.Sleep(RequestTime + time.Second)
		synctest.Wait()
		if len(s.incoming) != 0 {
			t.Errorf("%d requests are left after their time", len(s.incoming))
		}
		if err := x.Reply(in.ID, make([]byte, MaxChunk+1), true, ""); err == nil {
			t.Error("a part over the limit was taken")
		}
	})
}

// A peer is charged for bytes that no node sends, and for nothing else.
func TestAnswersOfPeers(t *testing.T) {
	for _, x := range []struct {
		name    string
		answer  []byte // as it comes
		want    error
		reports []string
		parts   int
	}{
		{name: "good", answer: frames(wire.AppAnswer{Data: []byte("a")}, wire.AppAnswer{Data: []byte("b"), Last: true}), parts: 2},
		{name: "cut off", answer: frames(wire.AppAnswer{Data: []byte("a")}), want: ErrCutOff, parts: 1},
		{name: "cut off in a frame", answer: frames(wire.AppAnswer{Data: []byte("abc")})[:3], want: ErrCutOff},
		{name: "malformed", answer: []byte{2, 0xff, 0xff}, want: wire.ErrMalformed, reports: []string{"other malformed"}},
		{name: "oversize", answer: []byte{0xff, 0xff, 0xff, 0x7f}, want: wire.ErrTooLarge, reports: []string{"other oversize"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := room(t, nil)
				attach(t, s, txHello)
				w.dial = func(peer.ID, string) (chain.Stream, error) {
					ours, theirs := net.Pipe()
					go func() {
						_, _ = wire.ReadFrame(theirs, wire.MaxAppRequest)
						_, _ = theirs.Write(x.answer) // it may be left half way
						_ = theirs.Close()
					}()
					return pipe{ours, other}, nil
				}
				parts := 0
				err := s.Request(t.Context(), other, "sync", nil, func([]byte) error { parts++; return nil })
				if !errors.Is(err, x.want) || parts != x.parts || !slices.Equal(w.reports, x.reports) {
					t.Errorf("%d parts, %v, reports %q", parts, err, w.reports)
				}
				if s.outgoing != 0 {
					t.Errorf("%d requests are left", s.outgoing)
				}
			})
		})
	}
}

func frames(answers ...wire.AppAnswer) []byte {
	var b bytes.Buffer
	for _, a := range answers {
		_ = wire.WriteFrame(&b, a.Encode()) // a buffer takes all
	}
	return b.Bytes()
}

// The program knows of each ready peer, and of each head once.
func TestPeersAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		w.peers = []chain.Peer{{ID: other, App: []byte("x")}}
		x := attach(t, s, txHello)
		if st := next[StatusOf](t, x); st.Peer != other || string(st.Status) != "x" {
			t.Errorf("told %+v", st)
		}
		time.Sleep(3 * lookEvery)
		w.mu.Lock()
		w.peers = []chain.Peer{{ID: other, App: []byte("x"), Claimed: chain.Head{Height: 3, Hash: chain.Hash{3}}}}
		w.mu.Unlock()
		time.Sleep(lookEvery)
		if st := next[StatusOf](t, x); st.Head.Height != 3 {
			t.Errorf("told %+v", st)
		}
		w.mu.Lock()
		w.peers = nil
		w.mu.Unlock()
		time.Sleep(lookEvery)
		if gone := next[PeerGone](t, x); gone.Peer != other {
			t.Errorf("told %+v", gone)
		}
		if w.greeted != 0 {
			t.Error("greeted again without a genesis")
		}
		h := txHello
		h.Genesis = chain.Hash{1}
		x = attach(t, s, h)
		if attach(t, s, h); w.greeted != 1 || s.Status().Genesis != h.Genesis {
			t.Errorf("greeted %d times, genesis %s", w.greeted, s.Status().Genesis)
		}
		if _, err := x.Next(t.Context()); !errors.Is(err, ErrReplaced) {
			t.Errorf("replaced: %v", err)
		}
	})
}

func TestCheckStatus(t *testing.T) {
	s, err := New(Config{NetworkName: "main"}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := chain.Status{Network: "sidecar/main", Genesis: chain.Hash{1}}
	if err := s.CheckStatus(good); err != nil {
		t.Errorf("while we have no program: %v", err)
	}
	s.genesis = chain.Hash{2}
	for _, x := range []struct {
		remote chain.Status
		code   uint32
	}{
		{good, chain.WrongGenesis}, {chain.Status{Network: "sidecar/main"}, 0}, {chain.Status{Network: "sidecar/main", Genesis: chain.Hash{2}}, 0},
		{chain.Status{Network: "sidecar/mainly"}, chain.WrongNetwork}, {chain.Status{Network: "consortium"}, chain.WrongNetwork},
	} {
		var bad *chain.MismatchError
		err := s.CheckStatus(x.remote)
		if errors.As(err, &bad); err == nil && x.code != 0 || bad != nil && bad.Code != x.code || bad != nil && len(bad.Text) > 256 {
			t.Errorf("%+v: %v", x.remote, err)
		}
	}
}
