package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/wire"
)

// barePair is two hosts with pubsub and the options of our nodes. The first
// publishes and is in this process; the second has one of its own, and tells
// us the first 16 bytes of each message that came.
type barePair struct {
	host   *bareSub
	other  *server
	heads  net.Conn
	got    chan []byte
	fail   chan error
	cancel context.CancelFunc
	ended  chan struct{}
}

func openBarePair(ctx context.Context, dir string, validate bool) (_ *barePair, err error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &barePair{got: make(chan []byte, 2*sidecarFlight), fail: make(chan error, 1), cancel: cancel, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.host, err = openBareSub(ctx, validate, false); err != nil {
		return nil, err
	}
	kind := serverSub
	if validate {
		kind = serverSure
	}
	if p.other, err = startServer(ctx, kind, dir); err != nil {
		return nil, err
	}
	if p.heads, err = (&net.Dialer{}).DialContext(ctx, "tcp", p.other.addr); err != nil {
		return nil, err
	}
	go p.listen(ctx)
	at := fmt.Sprintf("%s/p2p/%s", p.host.Addrs()[0], p.host.ID())
	if _, err := p.other.do(order{Connect: at}); err != nil {
		return nil, err
	}
	return p, untilCarried(ctx, p)
}

func (p *barePair) listen(ctx context.Context) {
	defer close(p.ended)
	r := bufio.NewReader(p.heads)
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(r, head); err != nil {
			if ctx.Err() == nil {
				p.fail <- fmt.Errorf("bare host: %w", err)
			}
			return
		}
		select {
		case p.got <- head:
		case <-ctx.Done():
			return
		}
	}
}

func (p *barePair) publish(ctx context.Context, data []byte) error {
	return p.host.topic.Publish(ctx, data)
}
func (p *barePair) arrived() <-chan []byte { return p.got }
func (p *barePair) failed() <-chan error   { return p.fail }

func (p *barePair) cpu() (hosts, _ time.Duration, err error) {
	used, err := p.other.do(order{})
	return used + cpuTime(), 0, err
}

func (p *barePair) close() error {
	var errs []error
	if p.other != nil {
		errs = append(errs, p.other.stop())
	}
	p.cancel()
	if p.heads != nil {
		errs = append(errs, p.heads.Close())
		<-p.ended
	}
	if p.host != nil {
		errs = append(errs, p.host.Close())
	}
	return errors.Join(errs...)
}

// bareSub is a host that takes the topic.
type bareSub struct {
	corehost.Host
	topic *pubsub.Topic
	sub   *pubsub.Subscription // nil where nobody reads: it relays as a node does
}

func openBareSub(ctx context.Context, validate, read bool) (_ *bareSub, err error) {
	const name = "/bench/" + sidecarTopic
	h, err := bareHost()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	params := pubsub.DefaultGossipSubParams()
	params.IDontWantMessageThreshold = 16 << 10
	ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithGossipSubParams(params), pubsub.WithPeerOutboundQueueSize(4096), pubsub.WithValidateQueueSize(1024), pubsub.WithFloodPublish(true),
		pubsub.WithMessageIdFn(func(m *pubsubpb.Message) string {
			id := wire.MessageID(m.GetTopic(), m.GetData())
			return string(id[:])
		}))
	if err != nil {
		return nil, err
	}
	if validate {
		good := func(context.Context, peer.ID, *pubsub.Message) bool { return true }
		if err := ps.RegisterTopicValidator(name, good, pubsub.WithValidatorConcurrency(512)); err != nil {
			return nil, err
		}
	}
	topic, err := ps.Join(name)
	if err != nil {
		return nil, err
	}
	b := &bareSub{Host: h, topic: topic}
	if read {
		b.sub, err = topic.Subscribe(pubsub.WithBufferSize(2 * sidecarFlight))
	} else {
		_, err = topic.Relay()
	}
	return b, err
}

// serveSub is a host in a process of its own. Who connects to addr is told the
// first 16 bytes of each message, those that wait in one write.
func serveSub(ctx context.Context, validate bool) (addr string, obey func(order) error, stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	h, err := openBareSub(ctx, validate, true)
	if err != nil {
		cancel()
		return "", nil, nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return "", nil, nil, errors.Join(err, h.Close())
	}
	heads := make(chan []byte, sidecarFlight)
	go h.listen(ctx, heads)
	go func() {
		if c, err := l.Accept(); err == nil {
			writeHeads(ctx, c, heads)
			_ = c.Close()
		}
	}()
	obey = func(o order) error {
		if o.Connect == "" {
			return nil
		}
		at, err := peer.AddrInfoFromString(o.Connect)
		if err != nil {
			return fmt.Errorf("connect to %q: %w", o.Connect, err)
		}
		return h.Connect(ctx, *at)
	}
	return l.Addr().String(), obey, func() error {
		cancel()
		return errors.Join(l.Close(), h.Close())
	}, nil
}

func (h *bareSub) listen(ctx context.Context, heads chan<- []byte) {
	for {
		m, err := h.sub.Next(ctx)
		if err != nil {
			return
		}
		select {
		case heads <- m.Data[:min(16, len(m.Data))]:
		case <-ctx.Done():
			return
		}
	}
}

// writeHeads returns when ctx ends or w fails.
func writeHeads(ctx context.Context, w io.Writer, heads <-chan []byte) {
	out := bufio.NewWriter(w)
	for {
		select {
		case b := <-heads:
			_, _ = out.Write(b) // Flush tells
		case <-ctx.Done():
			return
		}
		if len(heads) == 0 && out.Flush() != nil {
			return
		}
	}
}
