package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/parley-p2p/parley/config"
)

func kafkaSink(c *kfake.Cluster, subject string) config.Sink {
	return config.Sink{Kind: config.SinkKafka, URL: "kafka://" + strings.Join(c.ListenAddrs(), ","), Subject: subject, Types: []string{"*"}}
}

func newKafkaCluster(t *testing.T, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append(options, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// consumed reads n records of a topic.
func consumed(t *testing.T, c *kfake.Cluster, topic string, n int, options ...kgo.Opt) (records []*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(records) < n {
		fetched := client.PollFetches(ctx)
		if err := fetched.Err0(); err != nil {
			t.Fatalf("after %d records: %v", len(records), err)
		}
		records = append(records, fetched.Records()...)
	}
	return records
}

func seqsOf(t *testing.T, records []*kgo.Record) (seqs []uint64) {
	t.Helper()
	for _, r := range records {
		var e struct {
			V    int    `json:"v"`
			Seq  uint64 `json:"seq"`
			Type string `json:"type"`
		}
		if err := json.Unmarshal(r.Value, &e); err != nil || e.V != 1 || e.Type == "" || string(r.Key) != "n1" {
			t.Fatalf("record %s %s: %v", r.Key, r.Value, err)
		}
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

// Each event comes at least once and in order, while the broker refuses for a
// time and cuts connections.
func TestKafka(t *testing.T) {
	c := newKafkaCluster(t, kfake.SeedTopics(3, "parley.n1.head.changed"))
	refused := 0
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if refused++; refused > 5 {
			return nil, nil, false
		}
		c.KeepControl()
		if refused%2 == 0 {
			return nil, context.DeadlineExceeded, true // the connection is cut
		}
		return refusal(req, kerr.NotEnoughReplicas.Code), nil, true
	})
	r := start(t, 4096, t.TempDir(), kafkaSink(c, "parley.{node}.{type}"), nil)
	first := r.bus.Seq() + 1
	r.publish(0, 1000)
	eventually(t, "all is delivered", func() bool { return r.lag(t) == 0 })
	seqs := seqsOf(t, consumed(t, c, "parley.n1.head.changed", 1000))
	unique := slices.Compact(slices.Clone(seqs))
	if !slices.IsSorted(seqs) || len(unique) != 1000 || unique[0] != first {
		t.Errorf("%d records, %d events, sorted %v", len(seqs), len(unique), slices.IsSorted(seqs))
	}
	if refused < 5 {
		t.Errorf("the broker was asked %d times", refused)
	}
}

// refusal answers each record of a request with an error.
func refusal(req kmsg.Request, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.(*kmsg.ProduceRequest).Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// Records that the broker refuses for good are not overtaken by those behind
// them, and of a batch that is too large for it only the large one is lost.
func TestKafkaOrder(t *testing.T) {
	for name, code := range map[string]int16{"refused": kerr.PolicyViolation.Code, "too large": kerr.MessageTooLarge.Code} {
		t.Run(name, func(t *testing.T) {
			c := newKafkaCluster(t, kfake.SeedTopics(1, "parley"))
			asked := 0
			c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				if asked++; asked%3 == 1 && asked < 20 {
					return refusal(req, code), nil, true
				}
				return nil, nil, false
			})
			r := start(t, 4096, t.TempDir(), kafkaSink(c, "parley"), nil)
			first := r.bus.Seq() + 1
			r.publish(0, 600)
			eventually(t, "all is delivered", func() bool { return r.lag(t) == 0 })
			seqs := seqsOf(t, consumed(t, c, "parley", 600))
			if !slices.IsSorted(seqs) || len(slices.Compact(slices.Clone(seqs))) != 600 || len(seqs) != 600 || seqs[0] != first {
				t.Errorf("%d records, sorted %v", len(seqs), slices.IsSorted(seqs))
			}
			if asked < 5 {
				t.Errorf("the broker was asked %d times", asked)
			}
		})
	}
}

// While one topic takes nothing, what is stored in another is not sent again
// and again.
func TestKafkaOneTopicRefuses(t *testing.T) {
	c := newKafkaCluster(t, kfake.SeedTopics(1, "good"))
	b, err := newKafka(config.SinkURL{Servers: c.ListenAddrs()}, nil, "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	data := func(seq int) []byte { return fmt.Appendf(nil, `{"v":1,"seq":%d,"type":"x"}`, seq) }
	msgs := []message{{id: "1", subject: "good", data: data(1)}, {id: "2", subject: "no such topic", data: data(2)}, {id: "3", subject: "good", data: data(3)}}
	for i := range 2 {
		if n, err := b.send(t.Context(), msgs[i:]); n != 1-i || err == nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if n, err := b.send(t.Context(), []message{{id: "4", subject: "good", data: data(4)}}); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if seqs := seqsOf(t, consumed(t, c, "good", 3)); !slices.Equal(seqs, []uint64{1, 3, 4}) {
		t.Errorf("stored %v", seqs)
	}
}

// A broker that is away at the end does not hold up the node; the next start
// tells of what was lost.
func TestKafkaAway(t *testing.T) {
	c := newKafkaCluster(t, kfake.SeedTopics(1, "parley"))
	dir := t.TempDir()
	cfg := kafkaSink(c, "parley")
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, context.DeadlineExceeded, true
	})
	r := start(t, 512, dir, cfg, nil)
	before := r.bus.Seq()
	r.publish(0, 20)
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > drainTime+2*time.Second {
		t.Errorf("the end took %s", took)
	}
	positions, clean, err := readPositions(filepath.Join(dir, fileName))
	if p := positions[r.sinks[0].key()]; err != nil || !clean || p == nil || *p != (position{Seq: before, Missed: 20}) {
		t.Errorf("%+v %v %v", p, clean, err)
	}
}

// Who it is a sink says by SCRAM; with a wrong password nothing is delivered,
// and the log does not show it.
func TestKafkaLogin(t *testing.T) {
	c := newKafkaCluster(t, kfake.SeedTopics(1, "parley"), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "ann", "hush-hush"), kfake.Superuser("SCRAM-SHA-256", "bob", "hush-256"))
	dir := t.TempDir()
	file := filepath.Join(dir, "creds")
	for user, query := range map[string]string{"ann:hush-hush": "", "bob:hush-256": "?sasl=scram-sha-256"} {
		cfg := kafkaSink(c, "parley")
		cfg.URL += query
		cfg.CredentialsFile = "creds"
		if err := os.WriteFile(file, []byte(user), 0o600); err != nil {
			t.Fatal(err)
		}
		r := start(t, 512, dir, cfg, nil)
		r.publish(0, 3)
		eventually(t, "all is delivered", func() bool { return r.lag(t) == 0 })
		r.stop()
	}
	if err := os.WriteFile(file, []byte("ann:wrong-hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := newKafka(config.SinkURL{Servers: c.ListenAddrs(), SASL: "scram-sha-512"}, &credentials{file}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.send(t.Context(), []message{{seq: 1, subject: "parley", data: []byte("{}")}})
	b.close()
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("wrong password: %v", err)
	}
	login := kgo.SASL(scram.Auth{User: "ann", Pass: "hush-hush"}.AsSha512Mechanism())
	if got := len(consumed(t, c, "parley", 6, login)); got != 6 {
		t.Errorf("%d records", got)
	}
}

// A record over the limit is told as too large, and only it.
func TestKafkaTooLarge(t *testing.T) {
	c := newKafkaCluster(t, kfake.SeedTopics(1, "parley"))
	b, err := newKafka(config.SinkURL{Servers: c.ListenAddrs()}, nil, "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	msgs := []message{{id: "1", subject: "parley", data: []byte("{}")}, {id: "2", subject: "parley", data: make([]byte, 2<<20)}}
	if n, err := b.send(t.Context(), msgs); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := b.send(t.Context(), msgs[1:]); n != 0 || !errors.Is(err, errTooLarge) {
		t.Errorf("%d, %v", n, err)
	}
}
