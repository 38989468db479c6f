package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/internal/wire"
)

// programs are two nodes, the first of which publishes.
type programs struct {
	nodes  []*server
	ends   []*program
	got    chan []byte
	own    chan struct{} // what the first has published and was not told of: its queue is bounded
	fail   chan error
	cancel context.CancelFunc
}

// program is attached to one node, at its local socket.
type program struct {
	http   *http.Client
	client parleyv1connect.SidecarServiceClient
	stream *connect.BidiStreamForClient[pb.FromApp, pb.ToApp]

	mu    sync.Mutex // held while out is written to
	out   *connect.ClientStreamForClient[pb.PublishRequest, pb.PublishSummary]
	ended chan struct{}
}

func openPrograms(ctx context.Context, dir string, validate bool) (_ *programs, err error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &programs{got: make(chan []byte, 2*sidecarFlight), own: make(chan struct{}, 4*sidecarFlight), fail: make(chan error, 2), cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for i := range 2 {
		s, err := startServer(ctx, serverSide, filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return nil, err
		}
		p.nodes = append(p.nodes, s)
		a, err := attachProgram(ctx, s.data, validate)
		if err != nil {
			return nil, err
		}
		p.ends = append(p.ends, a)
		take := func([]byte) { <-p.own }
		if i == 1 {
			take = func(b []byte) {
				select {
				case p.got <- b:
				case <-ctx.Done():
				}
			}
		}
		go a.listen(ctx, take, p.fail)
	}
	if _, err := p.nodes[1].do(order{Connect: p.nodes[0].p2p}); err != nil {
		return nil, err
	}
	return p, untilCarried(ctx, p)
}

func attachProgram(ctx context.Context, dataDir string, validate bool) (*program, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	a := &program{ended: make(chan struct{}), http: &http.Client{Transport: &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", parley.SocketPath(dataDir))
		},
	}}}
	a.client = parleyv1connect.NewSidecarServiceClient(a.http, "http://localhost", connect.WithGRPC())
	a.stream = a.client.Attach(ctx)
	hello := &pb.Hello{Name: "bench", Api: 1, Topics: []*pb.Topic{{Name: sidecarTopic, Validate: validate}}}
	if err := a.stream.Send(&pb.FromApp{Msg: &pb.FromApp_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	if _, err := a.stream.Receive(); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	a.out = a.client.PublishStream(ctx)
	return a, nil
}

// listen accepts what it is asked about, and takes each message.
func (a *program) listen(ctx context.Context, take func([]byte), fail chan<- error) {
	defer close(a.ended)
	for {
		m, err := a.stream.Receive()
		if v := m.GetValidate(); err == nil && v != nil {
			if err = a.stream.Send(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: v.GetId()}}}); err == nil {
				take(v.GetData())
			}
		} else if v := m.GetMessage(); err == nil && v != nil {
			take(v.GetData())
		}
		if err != nil {
			if ctx.Err() == nil {
				fail <- fmt.Errorf("program: %w", err)
			}
			return
		}
	}
}

func (p *programs) publish(ctx context.Context, data []byte) error {
	select {
	case p.own <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	a := p.ends[0]
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.out.Send(&pb.PublishRequest{Topic: sidecarTopic, Data: data})
	if errors.Is(err, io.EOF) { // the node has ended the stream
		_, why := a.out.CloseAndReceive()
		err = errors.Join(err, why)
	}
	return err
}

func (p *programs) arrived() <-chan []byte { return p.got }
func (p *programs) failed() <-chan error   { return p.fail }

func (p *programs) cpu() (sum time.Duration, err error) {
	for _, n := range p.nodes {
		used, err := n.do(order{})
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (p *programs) close() error {
	var errs []error
	for _, n := range p.nodes {
		_ = n.in.Close() // both end at once
	}
	for _, n := range p.nodes {
		errs = append(errs, n.stop())
	}
	p.cancel()
	for _, a := range p.ends {
		<-a.ended
		a.http.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// untilCarried waits until a message goes from end to end.
func untilCarried(ctx context.Context, l carrier) error {
	ctx, cancel := context.WithTimeout(ctx, sidecarLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if err := l.publish(ctx, numberedMessage(0, i, 16)); err != nil {
			return err
		}
		select {
		case <-l.arrived():
			return nil
		case err := <-l.failed():
			return err
		case <-ctx.Done():
			return fmt.Errorf("no message arrives: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// barePair is two hosts with pubsub and the options of our nodes, in this
// process.
type barePair struct {
	hosts  []corehost.Host
	topic  *pubsub.Topic
	got    chan []byte
	fail   chan error
	cancel context.CancelFunc
}

func openBarePair(ctx context.Context, validate bool) (_ *barePair, err error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &barePair{got: make(chan []byte, 2*sidecarFlight), fail: make(chan error, 1), cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	const name = "/bench/" + sidecarTopic
	for i := range 2 {
		h, err := bareHost()
		if err != nil {
			return nil, err
		}
		p.hosts = append(p.hosts, h)
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
		sub, err := topic.Subscribe(pubsub.WithBufferSize(2 * sidecarFlight))
		if err != nil {
			return nil, err
		}
		if i == 0 {
			p.topic = topic
		}
		go p.listen(ctx, sub, i == 1)
	}
	if err := p.hosts[1].Connect(ctx, peer.AddrInfo{ID: p.hosts[0].ID(), Addrs: p.hosts[0].Addrs()}); err != nil {
		return nil, err
	}
	return p, untilCarried(ctx, p)
}

func (p *barePair) listen(ctx context.Context, sub *pubsub.Subscription, receives bool) {
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			return
		}
		if !receives {
			continue
		}
		select {
		case p.got <- m.Data:
		case <-ctx.Done():
			return
		}
	}
}

func (p *barePair) publish(ctx context.Context, data []byte) error { return p.topic.Publish(ctx, data) }
func (p *barePair) arrived() <-chan []byte                         { return p.got }
func (p *barePair) failed() <-chan error                           { return p.fail }
func (p *barePair) cpu() (time.Duration, error)                    { return cpuTime(), nil }

func (p *barePair) close() error {
	p.cancel()
	var errs []error
	for _, h := range p.hosts {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}
