package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
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
)

// kafkaBroker produces to topics that exist, or that the brokers make
// themselves where they are set to.
type kafkaBroker struct {
	client *kgo.Client
	at     string
	key    []byte // the node: its events of one topic keep their order
}

func newKafka(u config.SinkURL, creds *credentials, node string) (broker, error) {
	at := strings.Join(u.Servers, ",")
	options := []kgo.Opt{
		kgo.SeedBrokers(u.Servers...), kgo.ClientID("parley"), kgo.DialTimeout(kafkaDial), kgo.AllowAutoTopicCreation(),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(2 * batch), kgo.ProduceRequestTimeout(kafkaAck),
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
	return &kafkaBroker{client, at, []byte(node)}, nil
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

func (b *kafkaBroker) send(ctx context.Context, msgs []message) (int, error) {
	records := make([]*kgo.Record, len(msgs))
	for i, m := range msgs {
		records[i] = &kgo.Record{Topic: m.subject, Key: b.key, Value: m.data}
	}
	failed := make(map[*kgo.Record]error)
	for _, r := range b.client.ProduceSync(ctx, records...) {
		if r.Err != nil {
			failed[r.Record] = r.Err
		}
	}
	for i, r := range records {
		err, is := failed[r]
		switch {
		case !is:
		case errors.Is(err, kerr.MessageTooLarge):
			return i, fmt.Errorf("%w: %w", errTooLarge, err)
		default:
			return i, fmt.Errorf("produce to topic %s at %s: %w", r.Topic, b.at, b.why(ctx, err))
		}
	}
	return len(records), nil
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
