package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
)

func init() {
	maps.Copy(classes, map[string]access{"POST /api/v1/gossip/topics/{topic}/messages": admin})
	for _, call := range []string{"Attach", "Publish", "PublishStream", "Subscribe", "Request", "ReportPeer", "SetHead", "GetPeers"} {
		classes["POST /parley.v1.SidecarService/"+call] = admin
	}
}

type attachStream = connect.BidiStreamForClient[pb.FromApp, pb.ToApp]

func programHello(topics ...*pb.Topic) *pb.FromApp {
	return &pb.FromApp{Msg: &pb.FromApp_Hello{Hello: &pb.Hello{Name: "test", Api: 1, Topics: topics, Protocols: []*pb.Protocol{{Name: "sync"}}, GenesisHash: bytes.Repeat([]byte{1}, 32)}}}
}

// attach begins a program and reads its welcome.
func attach(ctx context.Context, t *testing.T, c parleyv1connect.SidecarServiceClient, first *pb.FromApp) *attachStream {
	t.Helper()
	st := c.Attach(ctx)
	if err := st.Send(first); err != nil {
		t.Fatal(err)
	}
	m, err := st.Receive()
	if err != nil || m.GetWelcome().GetNet() != "82bb8147" || m.GetWelcome().GetPeer() == "" {
		t.Fatalf("no welcome: %v, %v", m, err)
	}
	return st
}

// next reads until one of the wanted kind comes.
func next[T any](t *testing.T, st *attachStream, kind func(*pb.ToApp) *T) *T {
	t.Helper()
	for {
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if v := kind(m); v != nil {
			return v
		}
	}
}

func sidecarHouse(t *testing.T, peers ...string) (*house, parleyv1connect.SidecarServiceClient) {
	t.Helper()
	h := start(t, func(c *config.Config) {
		c.Network, c.P2P.StaticPeers = config.NetworkSidecar, peers
		c.Sidecar.ValidateTimeout = 5 * time.Second // the machine may be busy
	})
	client := h2c(nil)
	t.Cleanup(client.CloseIdleConnections)
	return h, parleyv1connect.NewSidecarServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
}

// Two programs on two nodes: a message with its verdict, a request with its
// answer, the head.
func TestSidecarService(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ha, a := sidecarHouse(t)
	hb, b := sidecarHouse(t, strings.TrimPrefix(ha.base, "http://"))
	tx := &pb.Topic{Name: "tx", Validate: true}
	ap, bp := attach(ctx, t, a, programHello(tx)), attach(ctx, t, b, programHello(tx))
	defer func() { _ = ap.CloseRequest() }()
	if st := next(t, bp, (*pb.ToApp).GetStatus); st.GetPeer() != ha.node.ID().String() {
		t.Errorf("status of %s, want %s", st.GetPeer(), ha.node.ID())
	}
	reader, err := a.Subscribe(ctx, connect.NewRequest(&pb.SubscribeRequest{Topics: []string{"tx"}}))
	if err != nil {
		t.Fatal(err)
	}
	ha.waitFor("the subscription of the other", func() bool {
		for _, topic := range hb.node.GossipTopics() {
			if topic.Topic == "tx" {
				return topic.Peers == 1
			}
		}
		return false
	})
	sent, err := b.Publish(ctx, connect.NewRequest(&pb.PublishRequest{Topic: "tx", Data: []byte("pay")}))
	if err != nil {
		t.Fatal(err)
	}
	ask := next(t, ap, (*pb.ToApp).GetValidate)
	if string(ask.GetData()) != "pay" || ask.GetFrom() != hb.node.ID().String() || ask.GetDeadlineMs() < time.Now().UnixMilli() {
		t.Errorf("asked %v", ask)
	}
	if err := ap.Send(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: ask.GetId()}}}); err != nil {
		t.Fatal(err)
	}
	if !reader.Receive() || string(reader.Msg().GetData()) != "pay" || reader.Msg().GetId() != sent.Msg.GetMessageId() {
		t.Errorf("read %v, %v", reader.Msg(), reader.Err())
	}
	if echo := next(t, bp, (*pb.ToApp).GetMessage); echo.GetFrom() != hb.node.ID().String() {
		t.Errorf("the publisher's program is told %v", echo)
	}

	big := bytes.Repeat([]byte{7}, parley.MaxProgramPart)
	answer, err := b.Request(ctx, connect.NewRequest(&pb.RequestRequest{Peer: ha.node.ID().String(), Protocol: "sync", Data: []byte("from 1")}))
	if err != nil {
		t.Fatal(err)
	}
	in := next(t, ap, (*pb.ToApp).GetIncoming)
	for i, part := range [][]byte{big, []byte("end")} {
		if err := ap.Send(&pb.FromApp{Msg: &pb.FromApp_Reply{Reply: &pb.Reply{Id: in.GetId(), Data: part, Last: i == 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	for answer.Receive() {
		got = append(got, len(answer.Msg().GetData()))
	}
	if answer.Err() != nil || len(got) != 2 || got[0] != len(big) || got[1] != 3 || string(in.GetData()) != "from 1" || in.GetProtocol() != "sync" {
		t.Errorf("parts of %v bytes, %v, for %v", got, answer.Err(), in)
	}

	head := &pb.SetHeadRequest{Height: 4, Hash: bytes.Repeat([]byte{4}, 32), BlockCount: 5, TimeMs: 1795910400000}
	if _, err := a.SetHead(ctx, connect.NewRequest(head)); err != nil {
		t.Fatal(err)
	}
	st := ha.do("GET", "/api/v1/status", "", "").json(t)
	if st["role"] != "attached" || st["head"].(map[string]any)["height"] != 4. || st["verdict"] != "healthy" {
		t.Errorf("status %v", st)
	}
	if r := ha.do("GET", "/api/blockchain/status", "", ""); r.json(t)["block_count"] != 5. {
		t.Errorf("provchain status %s", r.body)
	}
	if r := ha.do("GET", "/api/blockchain/dump", "", ""); strings.TrimSpace(string(r.body)) != "[]" {
		t.Errorf("provchain dump %s", r.body)
	}
	hb.waitFor("the other's head", func() bool {
		list, err := b.GetPeers(ctx, connect.NewRequest(&pb.GetPeersRequest{}))
		return err == nil && len(list.Msg.GetPeers()) == 1 && list.Msg.GetPeers()[0].GetClaimed().GetHeight() == 4 && len(list.Msg.GetPeers()[0].GetGenesisHash()) == 32
	})
	if _, err := b.ReportPeer(ctx, connect.NewRequest(&pb.ReportPeerRequest{Peer: ha.node.ID().String(), Reason: "useless"})); err != nil {
		t.Error(err)
	}
	if d, ok := hb.node.PeerDetail(ha.node.ID()); !ok || d.Reputation.Points != 2 {
		t.Errorf("after a report: %+v, %v", d.Reputation, ok)
	}

	r := hb.do("POST", "/api/v1/gossip/topics/tx/messages", hb.token("admin"), "by hand", "Content-Type", "application/octet-stream")
	if r.status != 202 || len(r.json(t)["message_id"].(string)) != 40 {
		t.Errorf("POST of a message: %d %s", r.status, r.body)
	}
	if m := next(t, ap, (*pb.ToApp).GetValidate); string(m.GetData()) != "by hand" {
		t.Errorf("asked %v", m)
	}
	again := attach(ctx, t, b, programHello(tx))
	for err = nil; err == nil; {
		_, err = bp.Receive()
	}
	if connect.CodeOf(err) != connect.CodeAborted || plyCode(err) != "PLY-007" {
		t.Errorf("the replaced program: %v", err)
	}
	if err := again.CloseRequest(); err != nil {
		t.Error(err)
	}
	for err = nil; err == nil; {
		_, err = again.Receive()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("a program that leaves: %v", err)
	}
	began := time.Now()
	ha.stop()
	if took := time.Since(began); took > drainTimeout/2 {
		t.Errorf("an attached program held the node up for %v", took)
	}
	for err = nil; err == nil; {
		_, err = ap.Receive()
	}
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("the program of a node that stops: %v", err)
	}
}

// What a program does wrong is said in one error each.
func TestSidecarFaults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h, c := sidecarHouse(t)
	for _, x := range []struct {
		first *pb.FromApp
		want  string
		code  connect.Code
	}{
		{&pb.FromApp{}, "first message", connect.CodeInvalidArgument},
		{&pb.FromApp{Msg: &pb.FromApp_Hello{Hello: &pb.Hello{}}}, "speaks 1", connect.CodeInvalidArgument},
		{&pb.FromApp{Msg: &pb.FromApp_Hello{Hello: &pb.Hello{Api: 1, GenesisHash: []byte{1}}}}, "1 bytes, want 32", connect.CodeInvalidArgument},
		{&pb.FromApp{Msg: &pb.FromApp_Hello{Hello: &pb.Hello{Api: 1, Status: make([]byte, 1025)}}}, "1024", connect.CodeResourceExhausted},
		{programHello(&pb.Topic{Name: "a/b"}), `"a/b"`, connect.CodeInvalidArgument},
		{programHello(&pb.Topic{Name: "best_block"}), "every node", connect.CodeInvalidArgument},
		{programHello(&pb.Topic{Name: "tx"}, &pb.Topic{Name: "tx"}), "twice", connect.CodeInvalidArgument},
		{programHello(&pb.Topic{Name: "tx", MaxBytes: 2 << 20}), `"tx": max_bytes 2097152: want 1 to 1048576, which is sidecar.max_message, at most 10MiB: publish the hash`, connect.CodeInvalidArgument},
	} {
		st := c.Attach(ctx)
		_ = st.Send(x.first) // the answer tells
		m, err := st.Receive()
		if connect.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: %v, %v; want %v with %q", x.first, m, err, x.code, x.want)
		}
	}
	st := attach(ctx, t, c, programHello(&pb.Topic{Name: "tx", MaxBytes: 10}))
	for _, x := range []struct {
		topic, data, want string
		code              connect.Code
	}{
		{"other", "x", "declare it", connect.CodeNotFound}, {"tx", "", "at least one", connect.CodeInvalidArgument}, {"tx", "longer than ten", "at most 10", connect.CodeResourceExhausted},
	} {
		if _, err := c.Publish(ctx, connect.NewRequest(&pb.PublishRequest{Topic: x.topic, Data: []byte(x.data)})); connect.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.want) {
			t.Errorf("publish %q to %q: %v; want %v with %q", x.data, x.topic, err, x.code, x.want)
		}
	}
	self := h.node.ID().String()
	if _, err := c.SetHead(ctx, connect.NewRequest(&pb.SetHeadRequest{Height: 1})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("head without a hash: %v", err)
	}
	nanos := &pb.SetHeadRequest{Height: 1, Hash: bytes.Repeat([]byte{4}, 32), TimeMs: 1795910400000000000}
	if _, err := c.SetHead(ctx, connect.NewRequest(nanos)); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "milliseconds") {
		t.Errorf("head in nanoseconds: %v", err)
	}
	if r := h.do("GET", "/api/v1/status", "", ""); r.status != 200 || !json.Valid(r.body) {
		t.Errorf("status after a head in nanoseconds: %d %s", r.status, r.body)
	}
	if _, err := c.ReportPeer(ctx, connect.NewRequest(&pb.ReportPeerRequest{Peer: self, Reason: "ugly"})); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "false_claim") {
		t.Errorf("report of an unknown reason: %v", err)
	}
	if _, err := c.ReportPeer(ctx, connect.NewRequest(&pb.ReportPeerRequest{Peer: "me"})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("report of no peer: %v", err)
	}
	res, err := c.Request(ctx, connect.NewRequest(&pb.RequestRequest{Peer: self, Protocol: "sync"}))
	if err == nil {
		res.Receive()
		err = res.Err()
	}
	if connect.CodeOf(err) != connect.CodeUnavailable || plyCode(err) != "PLY-012" {
		t.Errorf("request to ourselves: %v", err)
	}
	if err := st.Send(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: 1, Kind: 2, Reason: "ugly"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Receive(); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "invalid_tx") {
		t.Errorf("verdict of an unknown reason: %v", err)
	}
	if r := h.do("GET", "/api/v1/chain/validators", "", ""); r.status != 501 || r.json(t)["code"] != "PLY-011" {
		t.Errorf("validators: %d %s", r.status, r.body)
	}
}

func TestSidecarOnOtherNetworks(t *testing.T) {
	h := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := h2c(nil)
	defer client.CloseIdleConnections()
	stranger := parleyv1connect.NewSidecarServiceClient(client, h.base, connect.WithGRPC())
	if _, err := stranger.GetPeers(ctx, connect.NewRequest(&pb.GetPeersRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a token: %v", err)
	}
	c := parleyv1connect.NewSidecarServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
	if _, err := c.SetHead(ctx, connect.NewRequest(&pb.SetHeadRequest{Hash: make([]byte, 32)})); connect.CodeOf(err) != connect.CodeUnimplemented || plyCode(err) != "PLY-011" {
		t.Errorf("head: %v", err)
	}
	st := c.Attach(ctx)
	_ = st.Send(programHello()) // the answer tells
	if _, err := st.Receive(); connect.CodeOf(err) != connect.CodeUnimplemented || plyCode(err) != "PLY-011" {
		t.Errorf("attach: %v", err)
	}
	r := h.do("POST", "/api/v1/gossip/topics/block/messages", h.token("admin"), "x", "Content-Type", "application/octet-stream")
	if r.status != 501 || r.json(t)["code"] != "PLY-011" {
		t.Errorf("POST of a message: %d %s", r.status, r.body)
	}
	if _, err := h.node.ProgramPeers(); !errors.Is(err, parley.ErrOtherNetwork) || errors.Is(err, chain.ErrBusy) {
		t.Error(err)
	}
}

// TestPublishStream sends a burst, of which all comes in order, and ends with
// the first message that is refused.
func TestPublishStream(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, c := sidecarHouse(t)
	program := attach(ctx, t, c, programHello(&pb.Topic{Name: "tx"}))
	defer func() { _ = program.CloseRequest() }()
	const messages = 500 // fewer than wait for a program
	sizes := []int{8, 300, 5000, 70_000}
	st := c.PublishStream(ctx)
	for i := range messages {
		data := binary.BigEndian.AppendUint64(make([]byte, 0, 70_000), uint64(i))
		if err := st.Send(&pb.PublishRequest{Topic: "tx", Data: data[:sizes[i%len(sizes)]]}); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := st.CloseAndReceive()
	if err != nil || sum.Msg.GetMessages() != messages {
		t.Fatalf("%v %v", sum, err)
	}
	for i := range messages {
		m := next(t, program, (*pb.ToApp).GetMessage)
		if n := binary.BigEndian.Uint64(m.GetData()); n != uint64(i) || len(m.GetData()) != sizes[i%len(sizes)] {
			t.Fatalf("message %d of %d bytes, want %d of %d", n, len(m.GetData()), i, sizes[i%len(sizes)])
		}
	}
	st = c.PublishStream(ctx)
	ended := make(chan error, 1)
	const many = 3000 // more than wait for a program: it is held up until it has read
	go func() {
		for i := range many {
			if err := st.Send(&pb.PublishRequest{Topic: "tx", Data: fmt.Append(nil, i)}); err != nil {
				ended <- err
				return
			}
		}
		_, err := st.CloseAndReceive()
		ended <- err
	}()
	for i := range many {
		if m := next(t, program, (*pb.ToApp).GetMessage); string(m.GetData()) != fmt.Sprint(i) {
			t.Fatalf("message %q, want %d", m.GetData(), i)
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	st = c.PublishStream(ctx)
	for _, topic := range []string{"tx", "nothing"} {
		if err := st.Send(&pb.PublishRequest{Topic: topic, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.CloseAndReceive(); connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "message 1: ") {
		t.Errorf("a topic that is not there: %v", err)
	}
}

// TestSidecarInBatches sends, asks and answers several at once.
func TestSidecarInBatches(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ha, a := sidecarHouse(t)
	hb, b := sidecarHouse(t, strings.TrimPrefix(ha.base, "http://"))
	hello := programHello(&pb.Topic{Name: "tx", Validate: true})
	hello.GetHello().Batches, hello.GetHello().SkipOwn = true, true
	ap, bp := attach(ctx, t, a, hello), attach(ctx, t, b, hello)
	reader, err := a.Subscribe(ctx, connect.NewRequest(&pb.SubscribeRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	ha.waitFor("the subscription of the other", func() bool {
		topics := hb.node.GossipTopics()
		i := slices.IndexFunc(topics, func(s parley.GossipTopic) bool { return s.Topic == "tx" })
		return i >= 0 && topics[i].Peers == 1
	})
	const messages = 200
	r := &pb.PublishRequest{Topic: "tx", Data: []byte("0")}
	for i := 1; i < messages; i++ {
		r.More = append(r.More, fmt.Append(nil, i))
	}
	st := b.PublishStream(ctx)
	if err := st.Send(r); err != nil {
		t.Fatal(err)
	}
	if sum, err := st.CloseAndReceive(); err != nil || sum.Msg.GetMessages() != messages {
		t.Fatalf("%v %v", sum, err)
	}
	most := 0
	for asked := map[string]bool{}; len(asked) < messages; {
		m, err := ap.Receive()
		if err != nil {
			t.Fatal(err)
		}
		items := m.GetBatch().GetItems()
		most = max(most, len(items))
		var ids []uint64
		for _, i := range append(items, m) {
			if v := i.GetValidate(); v != nil {
				ids = append(ids, v.GetId())
				asked[string(v.GetData())] = true
			}
		}
		if len(ids) == 0 {
			continue
		}
		if err := ap.Send(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: ids[0], More: ids[1:]}}}); err != nil {
			t.Fatal(err)
		}
	}
	if most < 2 {
		t.Errorf("%d items in a batch", most)
	}
	for i := range messages { // all were accepted
		if !reader.Receive() {
			t.Fatalf("%d of %d messages: %v", i, messages, reader.Err())
		}
	}
	if _, err := a.SetHead(ctx, connect.NewRequest(&pb.SetHeadRequest{Height: 9, Hash: bytes.Repeat([]byte{2}, 32)})); err != nil {
		t.Fatal(err)
	}
	for over := false; !over; { // its own are not told
		m, err := bp.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range append(m.GetBatch().GetItems(), m) {
			over = over || i.GetStatus().GetHeight() == 9
			if i.GetMessage() != nil {
				t.Fatalf("told %v", i)
			}
		}
	}
	_, err = b.Publish(ctx, connect.NewRequest(r))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("many in Publish: %v", err)
	}
	st = b.PublishStream(ctx)
	if err := st.Send(&pb.PublishRequest{Topic: "tx", Data: []byte("a"), More: [][]byte{[]byte("b"), nil, []byte("c")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.CloseAndReceive(); err == nil || !strings.Contains(err.Error(), "message 2: ") {
		t.Errorf("an empty one: %v", err)
	}
}
