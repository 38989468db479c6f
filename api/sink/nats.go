package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parley-p2p/parley/config"
)

const (
	natsDial  = 5 * time.Second
	natsWrite = 3 * time.Second  // a write that the server does not take in
	natsAck   = 10 * time.Second // from sending to the acknowledgement
	natsPing  = 10 * time.Second // two unanswered: the connection is given up
)

// natsBroker publishes to JetStream. The stream is the operator's: retention,
// replicas and limits are no business of a node.
type natsBroker struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	at     string
	window window
}

func newNATS(u config.SinkURL, creds *credentials, node string, log *slog.Logger) (broker, error) {
	scheme := "nats://"
	if u.TLS {
		scheme = "tls://"
	}
	at := scheme + strings.Join(u.Servers, ","+scheme)
	options := []nats.Option{
		nats.Name("parley " + node), nats.Timeout(natsDial), nats.FlusherTimeout(natsWrite), nats.PingInterval(natsPing), nats.MaxPingsOutstanding(2),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // what waits, waits in the bus's ring
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Debug("nats", "err", err) }),
	}
	if creds != nil {
		is, err := creds.isNATS()
		if err != nil {
			return nil, err
		}
		options = append(options, natsLogin(creds, is, log))
	}
	conn, err := nats.Connect(at, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", at, err)
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncTimeout(natsAck), jetstream.WithPublishAsyncMaxPending(2*batch))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("use JetStream of %s: %w", at, err)
	}
	return &natsBroker{conn: conn, js: js, at: at}, nil
}

// natsLogin reads the credentials anew at each connection.
func natsLogin(creds *credentials, isNATS bool, log *slog.Logger) nats.Option {
	if isNATS {
		return nats.UserCredentials(creds.path)
	}
	return nats.UserInfoHandler(func() (string, string) {
		user, password, err := creds.user()
		if err != nil {
			log.Warn("no credentials", "err", err)
		}
		return user, password
	})
}

func (b *natsBroker) send(ctx context.Context, msgs []message) (int, error) {
	if !b.conn.IsConnected() {
		err := b.conn.LastError()
		if err == nil {
			err = nats.ErrNoServers
		}
		return 0, fmt.Errorf("no connection to %s: %w", b.at, err)
	}
	msgs = b.window.of(msgs)
	acks := make([]jetstream.PubAckFuture, 0, len(msgs))
	var failed error
	for i, m := range msgs {
		if int64(len(m.data))+headerRoom > b.conn.MaxPayload() {
			failed = fmt.Errorf("%w: max_payload of %s is %d bytes", errTooLarge, b.at, b.conn.MaxPayload())
			break
		}
		options := []jetstream.PublishOpt{jetstream.WithMsgID(m.id), jetstream.WithRetryAttempts(0)} // again is for deliver to say
		if i > 0 {                                                                                   // it goes right behind the one before, or is refused
			options = append(options, jetstream.WithExpectLastMsgID(msgs[i-1].id))
		}
		ack, err := b.js.PublishMsgAsync(&nats.Msg{Subject: m.subject, Data: m.data}, options...)
		if err != nil {
			failed = err
			break
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == wrongLastMsgID && i > 0 {
				b.window.sent(i, len(msgs)) // somebody else's message came between, or it is of another stream
				return i, nil
			}
			return i, b.why(err, msgs[i])
		case <-ctx.Done():
			return i, ctx.Err()
		}
	}
	if failed == nil {
		b.window.sent(len(msgs), len(msgs))
	}
	return len(acks), failed
}

const wrongLastMsgID = 10070 // err_code of JetStream

const headerRoom = 512 // bytes of a message's headers

func (b *natsBroker) why(err error, m message) error {
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("no stream of %s takes the subject %s: make one that does, such as `nats stream add EVENTS --subjects '%s.>'` (%w)",
			b.at, m.subject, firstWord(m.subject), err)
	case errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return fmt.Errorf("%w: %w", errTooLarge, err)
	}
	return err
}

func firstWord(subject string) string {
	word, _, _ := strings.Cut(subject, ".")
	return word
}

func (b *natsBroker) close() { b.conn.Close() }
