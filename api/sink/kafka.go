package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/parley-p2p/parley/config"
)

const (
	kafkaDial = 5 * time.Second
	kafkaAck  = 5 * time.Second // that a broker may wait for its replicas
	kafkaSend = 8 * time.Second // for one record, with the client's own retries
	kafkaAsk  = 5 * time.Second // for why nothing was delivered
	kafkaRest = 500 * time.Millisecond

	kafkaBytes = 900 << 10 // of the messages at once; a batch takes 1,000,012, and a record some beside its value
	kafkaExtra = 128       // bytes of a record beside its value, at most
)

// kafkaBroker produces to topics that exist, or that the brokers make
// themselves where they are set to.
type kafkaBroker struct {
	client *kgo.Client
	at     string
	key    []byte // the node: its events of one topic keep their order
	window window
	stored map[string]struct{} // ids of messages that are stored, though one before them is not: of another topic
}

func newKafka(u config.SinkURL, creds *credentials, node string) (broker, error) {
	at := strings.Join(u.Servers, ",")
	options := []kgo.Opt{
		kgo.SeedBrokers(u.Servers...), kgo.ClientID("parley"), kgo.DialTimeout(kafkaDial), kgo.AllowAutoTopicCreation(),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(2 * batch), kgo.ManualFlushing(), kgo.ProduceRequestTimeout(kafkaAck),
		kgo.RequestTimeoutOverhead(kafkaAck), kgo.RecordDeliveryTimeout(kafkaSend),
		kgo.RetryBackoffFn(func(int) time.Duration { return kafkaRest }), kgo.MetadataMinAge(kafkaRest), // longer ones are ours, and end with the node
		kgo.AllowIdempotentProduceCancellation(), // so that the end of the node waits for no broker; twice is better than not at all
	}
	if u.TLS {
		options = append(options, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if creds != nil {
		if _, _, err := creds.user(); err != nil {
			return nil, err
		}
		options = append(options, kgo.SASL(kafkaLogin(u.SASL, creds)))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("use Kafka at %s: %w", at, err)
	}
	return &kafkaBroker{client: client, at: at, key: []byte(node), stored: map[string]struct{}{}}, nil
}

// kafkaLogin reads the credentials anew at each connection.
func kafkaLogin(mechanism string, creds *credentials) sasl.Mechanism {
	if mechanism == "plain" {
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			user, password, err := creds.user()
			return plain.Auth{User: user, Pass: password}, err
		})
	}
	auth := func(context.Context) (scram.Auth, error) {
		user, password, err := creds.user()
		return scram.Auth{User: user, Pass: password}, err
	}
	if mechanism == "scram-sha-256" {
		return scram.Sha256(auth)
	}
	return scram.Sha512(auth)
}

// send makes one batch of the messages of each topic, which is stored as a
// whole or not at all. Topics have no order among each other.
func (b *kafkaBroker) send(ctx context.Context, msgs []message) (int, error) {
	msgs = b.window.of(msgs)
	for i, bytes := 0, 0; i < len(msgs); i++ {
		if bytes += len(msgs[i].data) + kafkaExtra; bytes > kafkaBytes {
			msgs = msgs[:max(1, i)]
		}
	}
	errs := b.produce(ctx, msgs)
	failed := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if failed < 0 {
		clear(b.stored)
		b.window.sent(len(msgs), len(msgs))
		return len(msgs), nil
	}
	for i, m := range msgs {
		if delete(b.stored, m.id); i > failed && errs[i] == nil {
			b.stored[m.id] = struct{}{}
		}
	}
	err := errs[failed]
	switch {
	case !errors.Is(err, kerr.MessageTooLarge):
		return failed, fmt.Errorf("produce to topic %s at %s: %w", msgs[failed].subject, b.at, b.why(ctx, err))
	case len(msgs) > 1: // which of the batch it is shows when each goes alone
		b.window.sent(1, len(msgs))
		return failed, nil
	}
	return failed, fmt.Errorf("%w: %w", errTooLarge, err)
}

// produce tells of each message why it is not stored.
func (b *kafkaBroker) produce(ctx context.Context, msgs []message) []error {
	errs := make([]error, len(msgs))
	var pending sync.WaitGroup
	for i, m := range msgs {
		if _, is := b.stored[m.id]; is {
			continue
		}
		pending.Add(1)
		b.client.Produce(ctx, &kgo.Record{Topic: m.subject, Key: b.key, Value: m.data}, func(_ *kgo.Record, err error) {
			errs[i] = err
			pending.Done()
		})
	}
	if b.client.Flush(ctx) != nil {
		b.client.UnsafeAbortBufferedRecords() // the client takes a new epoch, with which the brokers refuse what is on its way
	}
	pending.Wait()
	return errs
}

// why asks a broker for the reason behind a record that only ran out of time,
// such as a wrong password.
func (b *kafkaBroker) why(ctx context.Context, err error) error {
	if _, told := errors.AsType[*kerr.Error](err); told {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, kafkaAsk)
	defer cancel()
	if reason := b.client.Ping(ctx); reason != nil && ctx.Err() == nil {
		return reason
	}
	return err
}

func (b *kafkaBroker) close() { b.client.Close() }
