package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
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
	fail   chan error
	cancel context.CancelFunc
}

// program is attached to one node, at its local socket, by the gRPC of Google.
type program struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream // Attach

	out   grpc.ClientStream // PublishStream
	next  chan []byte       // to be published
	ended chan struct{}
	wrote chan struct{} // closed when nothing is published any more
}

func openPrograms(ctx context.Context, dir string, validate bool) (_ *programs, err error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &programs{got: make(chan []byte, 2*sidecarFlight), fail: make(chan error, 3), cancel: cancel}
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
		go a.listen(ctx, p.got, p.fail)
		go a.write(ctx, p.fail)
	}
	if _, err := p.nodes[1].do(order{Connect: p.nodes[0].p2p}); err != nil {
		return nil, err
	}
	return p, untilCarried(ctx, p)
}

func attachProgram(ctx context.Context, dataDir string, validate bool) (_ *program, err error) {
	conn, err := grpc.NewClient("unix:"+parley.SocketPath(dataDir), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(sidecarMost+64<<10)))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	a := &program{conn: conn, next: make(chan []byte, sidecarTogether), ended: make(chan struct{}), wrote: make(chan struct{})}
	if a.stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, parleyv1connect.SidecarServiceAttachProcedure); err != nil {
		return nil, err
	}
	hello := &pb.Hello{Name: "bench", Api: 1, Topics: []*pb.Topic{{Name: sidecarTopic, MaxBytes: sidecarMost, Validate: validate}}, Batches: true, SkipOwn: true}
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
func (a *program) listen(ctx context.Context, got chan<- []byte, fail chan<- error) {
	defer close(a.ended)
	for {
		m := new(pb.ToApp)
		err := a.stream.RecvMsg(m)
		items := m.GetBatch().GetItems()
		if items == nil {
			items = []*pb.ToApp{m}
		}
		var accept []uint64
		for _, i := range items {
			if v := i.GetValidate(); v != nil {
				accept = append(accept, v.GetId())
			}
		}
		if err == nil && len(accept) > 0 {
			err = a.stream.SendMsg(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: accept[0], More: accept[1:]}}})
		}
		if err != nil {
			if ctx.Err() == nil {
				fail <- fmt.Errorf("program: %w", err)
			}
			return
		}
		for _, i := range items {
			data := i.GetMessage().GetData()
			if v := i.GetValidate(); v != nil {
				data = v.GetData()
			}
			if data == nil {
				continue // of a peer
			}
			select {
			case got <- data:
			case <-ctx.Done():
				return
			}
		}
	}
}

// write publishes what waits together.
func (a *program) write(ctx context.Context, fail chan<- error) {
	defer close(a.wrote)
	for {
		r := &pb.PublishRequest{Topic: sidecarTopic}
		select {
		case r.Data = <-a.next:
		case <-ctx.Done():
			return
		}
		for len(a.next) > 0 && len(r.More) < sidecarTogether {
			r.More = append(r.More, <-a.next)
		}
		err := a.out.SendMsg(r)
		if errors.Is(err, io.EOF) { // the node has ended the stream
			err = errors.Join(err, a.out.RecvMsg(new(pb.PublishSummary)))
		}
		if err != nil {
			if ctx.Err() == nil {
				fail <- fmt.Errorf("publish: %w", err)
			}
			return
		}
	}
}

func (p *programs) publish(ctx context.Context, data []byte) error {
	select {
	case p.ends[0].next <- data:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *programs) arrived() <-chan []byte { return p.got }
func (p *programs) failed() <-chan error   { return p.fail }

func (p *programs) cpu() (nodes, ends time.Duration, err error) {
	for _, n := range p.nodes {
		used, err := n.do(order{})
		if err != nil {
			return 0, 0, err
		}
		nodes += used
	}
	return nodes, cpuTime(), nil
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
		<-a.wrote
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
