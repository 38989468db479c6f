package sink

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// natsServer is a nats-server of the test's own, from Debian's package.
type natsServer struct {
	t    *testing.T
	dir  string
	port int
	args []string
	cmd  *exec.Cmd
}

func newNATSServer(t *testing.T, args ...string) *natsServer {
	t.Helper()
	if _, err := exec.LookPath("nats-server"); err != nil {
		t.Skip("nats-server is not installed: as root, apt-get install nats-server")
	}
	s := &natsServer{t: t, dir: t.TempDir(), args: args}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// start starts it, again with what it stored, and waits until it answers.
func (s *natsServer) start() {
	s.t.Helper()
	args := append([]string{"-js", "-sd", s.dir, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port)}, s.args...)
	s.cmd = exec.CommandContext(context.Background(), "nats-server", args...)
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("nats-server answers", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (s *natsServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *natsServer) eventually(what string, f func() bool) { eventually(s.t, what, f) }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

// js is a connection of the test; options say who it is.
func (s *natsServer) js(options ...nats.Option) jetstream.JetStream {
	s.t.Helper()
	conn, err := nats.Connect(s.url(), append(options, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

func makeStream(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "events", Subjects: []string{"parley.>"}}); err != nil {
		t.Fatal(err)
	}
}

// stored are the ids of the messages in the stream, in their order.
func stored(t *testing.T, js jetstream.JetStream) (ids []string, subjects []string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= stream.CachedInfo().State.LastSeq; i++ {
		m, err := stream.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		ids, subjects = append(ids, m.Header.Get(jetstream.MsgIDHeader)), append(subjects, m.Subject)
	}
	return ids, subjects
}

func natsSink(s *natsServer) config.Sink {
	c := allTypes
	c.URL = s.url()
	return c
}

// idsOf are the ids of the newest n events.
func (r *running) idsOf(n int) (ids []string) {
	for seq := r.bus.Seq() - uint64(n) + 1; seq <= r.bus.Seq(); seq++ {
		ids = append(ids, fmt.Sprintf("%s/%d", r.boot, seq))
	}
	return ids
}

// A server that is killed at any moment and started again loses nothing, has
// nothing twice and all in order: what may have been stored is sent again under
// its id.
func TestNATSKilled(t *testing.T) {
	s := newNATSServer(t)
	js := s.js()
	makeStream(t, js)
	r := start(t, 16384, t.TempDir(), natsSink(s), nil)
	const rounds, each = 3, 1000
	for round := range rounds {
		r.publish(round*each, each/2)
		if round > 0 {
			s.eventually("some of the round is stored", func() bool { return r.lag(t) < each/2 })
		}
		s.kill()
		r.publish(round*each+each/2, each/2)
		s.start()
	}
	s.eventually("all is delivered", func() bool { return r.lag(t) == 0 })
	ids, subjects := stored(t, js)
	want := r.idsOf(rounds * each)
	if !slices.Equal(ids, want) {
		t.Errorf("%d messages, %d of them different, want %d", len(ids), len(slices.Compact(slices.Clone(ids))), len(want))
	}
	if subjects[0] != "parley.n1.head.changed" {
		t.Errorf("subject %s", subjects[0])
	}
}

// A server that hangs holds up nobody. Who publishes goes on, the ring bounds
// what waits, and one lagged event tells of the rest.
func TestNATSHangs(t *testing.T) {
	s := newNATSServer(t)
	js := s.js()
	makeStream(t, js)
	r := start(t, 512, t.TempDir(), natsSink(s), nil)
	r.publish(0, 1)
	s.eventually("the first is stored", func() bool { return r.lag(t) == 0 })
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const many = 20_000
	start := time.Now()
	r.publish(1, many)
	took := time.Since(start)
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.eventually("the rest is delivered", func() bool { return r.lag(t) == 0 })
	ids, subjects := stored(t, js)
	gaps, dropped := 0, 0
	for i, subject := range subjects {
		if subject == "parley.n1.lagged" {
			gaps++
			dropped += droppedBy(t, js, uint64(i+1))
		}
	}
	t.Logf("%d events published in %s while the server hung, %d stored, %d lagged with %d", many, took, len(ids)-gaps, gaps, dropped)
	if last := ids[len(ids)-1]; last != r.idsOf(1)[0] || gaps < 1 || gaps > 2 || len(ids)-gaps+dropped != many+1 { // 2: it may not keep up with the first batch either
		t.Errorf("%d messages, %d lagged with %d, last %s", len(ids), gaps, dropped, last)
	}
}

// droppedBy is the count of a lagged event.
func droppedBy(t *testing.T, js jetstream.JetStream, at uint64) int {
	t.Helper()
	stream, err := js.Stream(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	var e struct{ Data lagged }
	if err := json.Unmarshal(m.Data, &e); err != nil || e.Data.To-e.Data.From+1 != e.Data.Dropped {
		t.Fatalf("%s: %v", m.Data, err)
	}
	return int(e.Data.Dropped)
}

// A server that is away when the node starts, that has no stream and then one,
// that wants a password: the log says what to do, and then it goes on.
func TestNATSLate(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "creds"), []byte("ann:hush-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newNATSServer(t, "--user", "ann", "--pass", "hush-hush")
	cfg := natsSink(s)
	cfg.CredentialsFile = "creds"
	s.kill()
	r := start(t, 512, dir, cfg, nil)
	r.publish(0, 10)
	k := r.sinks[0]
	s.eventually("it has tried", func() bool { return r.lag(t) == 10 })
	s.start()
	js := s.js(nats.UserInfo("ann", "hush-hush"))
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Fatal(err)
	}
	makeStream(t, js)
	s.eventually("all is delivered", func() bool { return r.lag(t) == 0 })
	if ids, _ := stored(t, js); !slices.Equal(ids, r.idsOf(10)) {
		t.Errorf("%d messages", len(ids))
	}
	r.stop()
	b, err := k.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	_, err = b.send(t.Context(), []message{{seq: 1, id: "x/1", subject: "other.subject", data: []byte("{}")}})
	if err == nil || !strings.Contains(err.Error(), "no stream of "+s.url()+" takes the subject other.subject: make one that does, such as `nats stream add EVENTS --subjects 'other.>'`") {
		t.Errorf("no stream: %v", err)
	}
	n, err := b.send(t.Context(), []message{{seq: 1, id: "x/2", subject: "parley.x", data: []byte("{}")}, {seq: 2, id: "x/3", subject: "parley.x", data: make([]byte, 2<<20)}})
	if n != 1 || err == nil || !strings.Contains(err.Error(), errTooLarge.Error()) {
		t.Errorf("too large: %d, %v", n, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "creds"), []byte("ann:wrong-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := k.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if _, err = other.send(t.Context(), []message{{}}); err == nil || !strings.Contains(err.Error(), "authorization violation") || strings.Contains(err.Error(), "hush") {
		t.Errorf("wrong password: %v", err)
	}
}

// A node that starts again goes on with its numbers, and what it published
// while the server was away is told as lost once.
func TestNATSRestart(t *testing.T) {
	s := newNATSServer(t)
	js := s.js()
	makeStream(t, js)
	dir := t.TempDir()
	r := start(t, 512, dir, natsSink(s), nil)
	r.publish(0, 300)
	r.stop() // delivers what is left
	want := r.idsOf(300)
	r = start(t, 512, dir, natsSink(s), nil)
	r.publish(0, 3)
	s.eventually("all is delivered", func() bool { return r.lag(t) == 0 })
	want = append(want, r.idsOf(3)...)
	s.kill()
	r.publish(3, 7)
	r.stop()
	s.start()
	r = start(t, 512, dir, natsSink(s), nil)
	r.publish(0, 1)
	s.eventually("all is delivered", func() bool { return r.lag(t) == 0 })
	want = append(want, r.idsOf(2)...) // one below the first is the lagged event
	ids, subjects := stored(t, js)
	if !slices.Equal(ids, want) {
		t.Errorf("%d messages, want %d", len(ids), len(want))
	}
	if subject := subjects[len(subjects)-2]; subject != "parley.n1.lagged" {
		t.Errorf("subject %s", subject)
	}
}

// A message that the server refuses is not overtaken by those behind it, also
// while somebody else writes to the stream, or where messages go to several.
func TestNATSOrder(t *testing.T) {
	for name, streams := range map[string][]string{"one stream": {"parley.>"}, "two streams": {"parley.n1.head.>", "parley.n1.node.>", "parley.n1.lagged", "parley.other"}} {
		t.Run(name, func(t *testing.T) {
			s := newNATSServer(t)
			js := s.js()
			for i, subject := range streams {
				if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: fmt.Sprint("events", i), Subjects: []string{subject}, MaxMsgSize: 2000}); err != nil {
					t.Fatal(err)
				}
			}
			r := start(t, 4096, t.TempDir(), natsSink(s), nil)
			ended := make(chan int)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				n := 0
				for ; ctx.Err() == nil; n++ {
					_, _ = js.Publish(ctx, "parley.other", nil) // the last one is cut off
				}
				ended <- n
			}()
			const rounds, each = 10, 100
			for range rounds {
				r.publish(0, each-2)
				r.bus.Publish(event.NodeStopping{Why: "short"}, event.NodeStopping{Why: strings.Repeat("long ", 500)})
			}
			s.eventually("all is delivered", func() bool { return r.lag(t) == 0 })
			cancel()
			others := <-ended
			var got []string
			for i := range streams {
				ids := storedIn(t, js, fmt.Sprint("events", i))
				if !slices.IsSorted(ids) {
					t.Errorf("stream %d is not in order", i)
				}
				got = append(got, ids...)
			}
			slices.Sort(got)
			if want := r.idsOf(rounds * each); !slices.Equal(got, want) {
				t.Errorf("%d messages, want %d", len(got), len(want))
			}
			t.Logf("%d messages of somebody else between", others)
		})
	}
}

// storedIn are the ids of our messages in a stream, in their order.
func storedIn(t *testing.T, js jetstream.JetStream, name string) (ids []string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= stream.CachedInfo().State.LastSeq; i++ {
		m, err := stream.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if id := m.Header.Get(jetstream.MsgIDHeader); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}
