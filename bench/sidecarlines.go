package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
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

// program is attached to one node, at its local socket, by the gRPC of Google.
type program struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream // Attach

	mu    sync.Mutex        // held while out is written to
	out   grpc.ClientStream // PublishStream
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

func attachProgram(ctx context.Context, dataDir string, validate bool) (_ *program, err error) {
	conn, err := grpc.NewClient("unix:"+parley.SocketPath(dataDir), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	a := &program{conn: conn, ended: make(chan struct{})}
	if a.stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, parleyv1connect.SidecarServiceAttachProcedure); err != nil {
		return nil, err
	}
	hello := &pb.Hello{Name: "bench", Api: 1, Topics: []*pb.Topic{{Name: sidecarTopic, Validate: validate}}}
	if err := a.stream.SendMsg(&pb.FromApp{Msg: &pb.FromApp_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	if err := a.stream.RecvMsg(new(pb.ToApp)); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	a.out, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, parleyv1connect.SidecarServicePublishStreamProcedure)
	return a, err
}

// listen accepts what it is asked about, and takes each message.
func (a *program) listen(ctx context.Context, take func([]byte), fail chan<- error) {
	defer close(a.ended)
	for {
		m := new(pb.ToApp)
		err := a.stream.RecvMsg(m)
		if v := m.GetValidate(); err == nil && v != nil {
			if err = a.stream.SendMsg(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: v.GetId()}}}); err == nil {
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
	err := a.out.SendMsg(&pb.PublishRequest{Topic: sidecarTopic, Data: data})
	if errors.Is(err, io.EOF) { // the node has ended the stream
		err = errors.Join(err, a.out.RecvMsg(new(pb.PublishSummary)))
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
		errs = append(errs, a.conn.Close())
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
