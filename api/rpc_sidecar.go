package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/danielgtaylor/huma/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/chain"
)

const (
	besideData = 64 << 10         // bytes of a program's message beside its data
	helloWait  = 10 * time.Second // for a program to say who it is
	maxDetail  = 256              // bytes
	toldAtOnce = 64 << 10         // bytes of messages that go out together
	besideItem = 128              // bytes of one of them beside its data, about
	maxNames   = 1024             // of peers, as text
	busyWait   = 2 * time.Millisecond
	busyMost   = 30 * time.Second // for one message
)

func (s *Server) sidecarService() {
	message := int(s.cfg.Sidecar.MaxMessage) + besideData
	grpcService(s, parleyv1connect.NewSidecarServiceHandler, parleyv1connect.SidecarServiceHandler(sidecarCalls{s}), map[string]grpcRule{
		"Attach":  {access: admin, maxBody: parley.MaxProgramPart + besideData, stream: true, busy: true},
		"Publish": {access: admin, maxBody: message}, "PublishStream": {access: admin, maxBody: message, stream: true, busy: true},
		"Subscribe":  {access: admin, stream: true, busy: true},
		"Request":    {access: admin, maxBody: parley.MaxProgramRequest + besideData, stream: true, busy: true},
		"ReportPeer": {access: admin}, "SetHead": {access: admin}, "GetPeers": {access: admin},
	})
}

// messageRoutes publish without a program's connection.
func (s *Server) messageRoutes() {
	s.raw(route{
		method: http.MethodPost, pattern: prefix + "gossip/topics/{topic}/messages", access: admin,
		maxBody: int64(s.cfg.Sidecar.MaxMessage), serve: s.publish,
	}, huma.Operation{
		OperationID: "post-gossip-topics-topic-messages", Summary: "Send the body's bytes to all that take a topic; sidecar networks only",
	}, form{takes: []string{"application/octet-stream"}, gives: "application/json", answer: reflect.TypeFor[published](), status: http.StatusAccepted})
}

type published struct {
	MessageID string `json:"message_id"`
}

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	body, p := s.wholeBody(w, r)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	data, err := io.ReadAll(body)
	var id string
	if err == nil {
		id, err = s.node.PublishMessage(r.Context(), r.PathValue("topic"), data)
	}
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	writeJSON(w, http.StatusAccepted, published{id})
}

// programProblem tells of what a program did, or of what it has to bear; nil =
// err is nothing of that.
func programProblem(err error) *problem {
	var input *parley.InputError
	var size *parley.SizeError
	var answer *parley.AnswerError
	switch {
	case errors.Is(err, parley.ErrOtherNetwork):
		return notOnThisNetwork.problem(err.Error())
	case errors.As(err, &input):
		return badRequest.problem(err.Error())
	case errors.As(err, &size):
		return tooLarge.problem(err.Error())
	case errors.As(err, &answer):
		return conflict.problem(err.Error())
	case errors.Is(err, parley.ErrNoTopic):
		return notFound.problem(err.Error())
	case errors.Is(err, parley.ErrSlow), errors.Is(err, chain.ErrBusy):
		p := full.problem(err.Error())
		p.Limit = "queue"
		return p
	case errors.Is(err, parley.ErrNoPeer), errors.Is(err, parley.ErrCutOff), errors.Is(err, parley.ErrStopped), errors.Is(err, parley.ErrNoHead), errors.Is(err, chain.ErrCut):
		return notReady.problem(err.Error())
	}
	return nil
}

type sidecarCalls struct{ s *Server }

// Attach serves a program until either side ends it.
func (c sidecarCalls) Attach(ctx context.Context, st *connect.BidiStream[pb.FromApp, pb.ToApp]) error {
	rc := callOf(ctx).rc
	_ = rc.SetReadDeadline(time.Now().Add(helloWait)) // not every connection has one
	first, err := st.Receive()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return timedOut.problem("no hello within " + helloWait.String())
	case errors.Is(err, io.EOF):
		return badRequest.problem("the stream ended before its hello")
	case err != nil:
		return err
	}
	_ = rc.SetReadDeadline(time.Time{})
	hello, err := helloOf(first)
	if err != nil {
		return err
	}
	program, err := c.s.node.Attach(ctx, hello)
	if err != nil {
		return err
	}
	defer program.Close()
	ctx, left := context.WithCancelCause(ctx)
	defer left(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		left(hear(ctx, st, program))
	}()
	err = tell(ctx, st, program, first.GetHello().GetBatches())
	if cause := context.Cause(ctx); ctx.Err() != nil {
		err = cause
	}
	program.Close() // what it still says is refused, which ends the hearing,
	left(nil)       // and what is passed over ends it too
	_ = rc.SetReadDeadline(time.Now())
	<-done // nothing of the request may be used when it is over
	switch {
	case errors.Is(err, io.EOF): // it has left
		return nil
	case errors.Is(err, parley.ErrReplaced):
		return aborted(conflict.problem(err.Error()))
	}
	return err
}

// aborted is p with the code of a stream that another one has replaced.
func aborted(p *problem) *connect.Error {
	err := connect.NewError(connect.CodeAborted, errors.New(p.Detail))
	for _, d := range p.grpc().Details() {
		err.AddDetail(d)
	}
	return err
}

// hear takes what the program says, until it has left.
func hear(ctx context.Context, st *connect.BidiStream[pb.FromApp, pb.ToApp], program *parley.Program) error {
	for {
		m, err := st.Receive()
		if err != nil {
			return err
		}
		switch {
		case m.GetVerdict() != nil:
			v := m.GetVerdict()
			err = program.Verdict(v.GetId(), parley.ProgramVerdict(v.GetKind()), v.GetReason(), v.GetMore()...)
		case m.GetReply() != nil:
			r := m.GetReply()
			err = program.Reply(r.GetId(), r.GetData(), r.GetLast(), r.GetError())
		case m.GetHello() != nil:
			err = badRequest.problem("hello came twice: attach anew to declare something else")
		} // what a later version says is passed over
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// tell gives the program what it is told, until it is ended. What waits goes
// out together.
func tell(ctx context.Context, st *connect.BidiStream[pb.FromApp, pb.ToApp], program *parley.Program, batches bool) error {
	over, cancel := context.WithCancel(ctx)
	cancel() // with it Next does not wait
	to, names := teller{st: st, call: callOf(ctx), batches: batches}, peerNames{}
	welcome := &pb.ToApp{Msg: &pb.ToApp_Welcome{Welcome: &pb.Welcome{Net: program.Net(), Peer: program.Self().String()}}}
	if err := to.put(welcome, false); err != nil {
		return err
	}
	for {
		item, err := program.Next(ctx)
		for size := 0; item != nil; {
			m := names.told(item)
			if item = nil; size < toldAtOnce {
				size += besideItem + len(m.GetValidate().GetData()) + len(m.GetMessage().GetData()) + len(m.GetIncoming().GetData()) // proto.Size takes longer
				item, err = program.Next(over)
			}
			if err := to.put(m, item != nil); err != nil {
				return err
			}
		}
		if err != nil && !errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return err
		}
	}
}

// teller sends what goes out together as one batch, or message by message to a
// program that takes none.
type teller struct {
	st      *connect.BidiStream[pb.FromApp, pb.ToApp]
	call    *grpcCall
	batches bool
	batch   []*pb.ToApp
}

func (t *teller) put(m *pb.ToApp, more bool) error {
	if !t.batches {
		t.call.held = more
		return t.st.Send(m)
	}
	t.batch = append(t.batch, m)
	if more {
		return nil
	}
	if len(t.batch) > 1 {
		m = &pb.ToApp{Msg: &pb.ToApp_Batch{Batch: &pb.Batch{Items: t.batch}}}
	}
	err := t.st.Send(m)
	clear(t.batch) // connect has written it
	t.batch = t.batch[:0]
	return err
}

// peerNames are peer ids as text, which takes a while to make.
type peerNames map[peer.ID]string

func (p peerNames) of(id peer.ID) string {
	name, ok := p[id]
	if !ok {
		if len(p) >= maxNames {
			clear(p)
		}
		name = id.String()
		p[id] = name
	}
	return name
}

func (p peerNames) told(item parley.ToProgram) *pb.ToApp {
	switch i := item.(type) {
	case parley.ProgramValidate:
		return &pb.ToApp{Msg: &pb.ToApp_Validate{Validate: &pb.Validate{Id: i.ID, Topic: i.Topic, From: p.of(i.From), Data: i.Data, DeadlineMs: i.Deadline.UnixMilli()}}}
	case parley.ProgramMessage:
		return &pb.ToApp{Msg: &pb.ToApp_Message{Message: p.message(i)}}
	case parley.ProgramIncoming:
		return &pb.ToApp{Msg: &pb.ToApp_Incoming{Incoming: &pb.Incoming{Id: i.ID, Peer: p.of(i.Peer), Protocol: i.Protocol, Data: i.Data}}}
	case parley.ProgramStatusOf:
		return &pb.ToApp{Msg: &pb.ToApp_Status{Status: &pb.StatusOf{Peer: p.of(i.Peer), Height: i.Head.Height, Hash: bytesOf(i.Head.Hash), Status: i.Status}}}
	case parley.ProgramPeerGone:
		return &pb.ToApp{Msg: &pb.ToApp_Gone{Gone: &pb.PeerGone{Peer: p.of(i.Peer), Reason: i.Reason}}}
	case parley.ProgramLost:
		return &pb.ToApp{Msg: &pb.ToApp_Lost{Lost: &pb.Lost{Messages: i.Messages}}}
	}
	return &pb.ToApp{} // nothing that this version knows
}

func (p peerNames) message(m parley.ProgramMessage) *pb.Message {
	return &pb.Message{Topic: m.Topic, Id: m.ID, From: p.of(m.From), Data: m.Data}
}

// bytesOf is empty for the zero hash.
func bytesOf(h chain.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

func hashOf(name string, b []byte) (chain.Hash, error) {
	if len(b) == 0 {
		return chain.Hash{}, nil
	}
	if len(b) != len(chain.Hash{}) {
		return chain.Hash{}, badRequest.problem(fmt.Sprintf("%s has %d bytes, want %d: hash a shorter or longer one once more", name, len(b), len(chain.Hash{})))
	}
	return chain.Hash(b), nil
}

func peerOf(text string) (peer.ID, error) {
	id, err := peer.Decode(text)
	if err != nil {
		return "", badRequest.problem(fmt.Sprintf("peer %.100q is no peer id like 12D3KooW…", text))
	}
	return id, nil
}

func helloOf(first *pb.FromApp) (parley.ProgramHello, error) {
	h := first.GetHello()
	if h == nil {
		return parley.ProgramHello{}, badRequest.problem("the first message of a program is hello")
	}
	genesis, err := hashOf("hello.genesis_hash", h.GetGenesisHash())
	if err != nil {
		return parley.ProgramHello{}, err
	}
	hello := parley.ProgramHello{Name: h.GetName(), API: h.GetApi(), Genesis: genesis, Status: h.GetStatus(), SkipOwn: h.GetSkipOwn()}
	for _, t := range h.GetTopics() {
		hello.Topics = append(hello.Topics, parley.ProgramTopic{Name: t.GetName(), MaxBytes: int(t.GetMaxBytes()), Validate: t.GetValidate()})
	}
	for _, p := range h.GetProtocols() {
		hello.Protocols = append(hello.Protocols, p.GetName())
	}
	return hello, nil
}

func (c sidecarCalls) Publish(ctx context.Context, r *connect.Request[pb.PublishRequest]) (*connect.Response[pb.PublishResponse], error) {
	if n := len(r.Msg.GetMore()); n > 0 {
		return nil, badRequest.problem(fmt.Sprintf("%d messages in more: Publish sends one, PublishStream many", n))
	}
	id, err := c.s.node.PublishMessage(ctx, r.Msg.GetTopic(), r.Msg.GetData())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.PublishResponse{MessageId: id}), nil
}

// PublishStream takes messages as fast as they can be sent on: where queues are
// full the program is held up.
func (c sidecarCalls) PublishStream(ctx context.Context, st *connect.ClientStream[pb.PublishRequest]) (*connect.Response[pb.PublishSummary], error) {
	sum := &pb.PublishSummary{}
	for st.Receive() {
		r := st.Msg()
		n, err := c.publish(ctx, r.GetTopic(), slices.Insert(r.GetMore(), 0, r.GetData()))
		if sum.Messages += uint64(n); err != nil {
			return nil, fmt.Errorf("message %d: %w", sum.GetMessages(), err)
		}
	}
	if err := st.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(sum), nil
}

// publish waits while queues are full. It tells how many were sent.
func (c sidecarCalls) publish(ctx context.Context, topic string, list [][]byte) (sent int, err error) {
	var begin time.Time // of the wait for one message
	for {
		n, err := c.s.node.SendMessages(ctx, topic, list[sent:])
		if sent += n; !errors.Is(err, chain.ErrBusy) {
			return sent, err
		}
		if n > 0 || begin.IsZero() {
			begin = time.Now()
		} else if time.Since(begin) > busyMost {
			return sent, err
		}
		select {
		case <-time.After(busyWait):
		case <-ctx.Done():
			return sent, ctx.Err()
		}
	}
}

func (c sidecarCalls) Subscribe(ctx context.Context, r *connect.Request[pb.SubscribeRequest], to *connect.ServerStream[pb.Message]) error {
	reader, err := c.s.node.ReadMessages(r.Msg.GetTopics())
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := to.Send(nil); err != nil { // the head of the answer tells the client that it misses nothing from now on
		return err
	}
	for names := (peerNames{}); ; {
		m, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		if err := to.Send(names.message(m)); err != nil {
			return err
		}
	}
}

func (c sidecarCalls) Request(ctx context.Context, r *connect.Request[pb.RequestRequest], to *connect.ServerStream[pb.Chunk]) error {
	id, err := peerOf(r.Msg.GetPeer())
	if err != nil {
		return err
	}
	if ms := r.Msg.GetDeadlineMs(); ms != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, time.UnixMilli(ms))
		defer cancel()
	}
	if err := to.Send(nil); err != nil { // some clients wait for the head of the answer
		return err
	}
	return c.s.node.RequestPeer(ctx, id, r.Msg.GetProtocol(), r.Msg.GetData(), func(part []byte) error {
		return to.Send(&pb.Chunk{Data: part})
	})
}

func (c sidecarCalls) ReportPeer(_ context.Context, r *connect.Request[pb.ReportPeerRequest]) (*connect.Response[pb.Empty], error) {
	id, err := peerOf(r.Msg.GetPeer())
	if err == nil && len(r.Msg.GetDetail()) > maxDetail {
		err = tooLarge.problem(fmt.Sprintf("detail has %d bytes, at most %d", len(r.Msg.GetDetail()), maxDetail))
	}
	if err == nil {
		err = c.s.node.ReportPeer(id, r.Msg.GetReason(), r.Msg.GetDetail())
	}
	return connect.NewResponse(&pb.Empty{}), err
}

func (c sidecarCalls) SetHead(_ context.Context, r *connect.Request[pb.SetHeadRequest]) (*connect.Response[pb.Empty], error) {
	h := parley.ProgramHead{BlockCount: r.Msg.GetBlockCount()}
	var err error
	h.Height = r.Msg.GetHeight()
	if h.Hash, err = hashOf("hash", r.Msg.GetHash()); err != nil {
		return nil, err
	}
	if h.Prev, err = hashOf("prev_hash", r.Msg.GetPrevHash()); err != nil {
		return nil, err
	}
	if ms := r.Msg.GetTimeMs(); ms != 0 {
		h.Time = time.UnixMilli(ms)
	}
	if err := c.s.node.SetHead(h); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.Empty{}), nil
}

func (c sidecarCalls) GetPeers(context.Context, *connect.Request[pb.GetPeersRequest]) (*connect.Response[pb.PeerList], error) {
	peers, err := c.s.node.ProgramPeers()
	if err != nil {
		return nil, err
	}
	list := &pb.PeerList{}
	for _, p := range peers {
		list.Peers = append(list.Peers, &pb.ReadyPeer{
			Peer: p.ID.String(), Claimed: &pb.PeerHead{Height: p.Claimed.Height, Hash: bytesOf(p.Claimed.Hash)}, GenesisHash: bytesOf(p.Genesis), Status: p.App,
		})
	}
	return connect.NewResponse(list), nil
}
