package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-p2p/parley/api/sink"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// failure is a log that tells of one message.
type failure struct {
	slog.Handler
	message string
	seen    chan struct{}
}

func (s failure) WithAttrs([]slog.Attr) slog.Handler { return s }

func (s failure) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, s.message) {
		s.seen <- struct{}{}
	}
	return nil
}

func (failure) Enabled(context.Context, slog.Level) bool { return true }

// TestSinksThatCannotStart: what happens until the next reload comes to the sink
// all the same.
func TestSinksThatCannotStart(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "all"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	good := config.Sink{Kind: config.SinkKafka, URL: "kafka://" + c.ListenAddrs()[0], Subject: "all", Types: []string{"*"}}
	bad := good
	bad.Subject, bad.CredentialsFile = "other", "creds"
	creds := filepath.Join(dir, bad.CredentialsFile)
	if err := os.WriteFile(creds, []byte("u:p"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := failure{slog.DiscardHandler, "sinks that were read again cannot start", make(chan struct{}, 1)}
	d := &delivery{options: sink.Options{Node: "n", Boot: "b", Dir: dir, Log: slog.New(failed)}, next: make(chan []config.Sink, 1)}
	bus := event.NewBus(64)
	if err := d.open([]config.Sink{good}, bus); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx) }()
	reload := func(sinks ...config.Sink) (act func()) {
		t.Helper()
		act, err := d.take(config.Config{Sinks: sinks})
		if err != nil {
			t.Fatal(err)
		}
		return act
	}
	bus.Publish(event.HeadChanged{Height: 1})
	act := reload(good, bad)
	if err := os.Remove(creds); err != nil { // after it was looked at
		t.Fatal(err)
	}
	act()
	<-failed.seen
	for i := range 5 {
		bus.Publish(event.HeadChanged{Height: uint64(2 + i)})
	}
	reload(good)()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("all"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fetching, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var got []string
	for len(got) < 6 {
		fetched := client.PollFetches(fetching)
		if err := fetched.Err0(); err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		for _, r := range fetched.Records() {
			_, height, _ := strings.Cut(string(r.Value), `"data":{"height":`)
			got = append(got, height[:1])
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if text := strings.Join(got, ""); text != "123456" {
		t.Errorf("heights %s", text)
	}
}
