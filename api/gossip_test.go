package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

// A message is published, followed and traced by remote calls; its bytes are for
// admins alone.
func TestGossipCalls(t *testing.T) {
	h := start(t, func(c *config.Config) {
		c.Network, c.API.PublicRead = config.NetworkSidecar, false
		c.Sidecar.Topics = config.SidecarTopics{{Name: "tx", Max: 1 << 10}}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	as := func(scope string) parleyv1connect.GossipServiceClient {
		return parleyv1connect.NewGossipServiceClient(http.DefaultClient, h.base, bearer(h.token(scope)))
	}
	admin, reader := as("admin"), as("read")
	h.waitFor("the topic", func() bool { m, err := h.node.GossipMesh("tx"); return err == nil && len(m) == 0 })

	follow := func(c parleyv1connect.GossipServiceClient, data bool) *connect.ServerStreamForClient[pb.TailMessage] {
		t.Helper()
		st, err := c.Tail(ctx, connect.NewRequest(&pb.TailRequest{Topics: []string{"tx"}, Data: data}))
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	all, heads := follow(admin, true), follow(reader, false)
	defer all.Close()
	defer heads.Close()
	made, err := admin.Publish(ctx, connect.NewRequest(&pb.GossipPublishRequest{Topic: "tx", Data: []byte("hello")}))
	if err != nil {
		t.Fatal(err)
	}
	id := made.Msg.GetMessageId()
	for i, st := range []*connect.ServerStreamForClient[pb.TailMessage]{all, heads} {
		if !st.Receive() {
			t.Fatalf("tail %d: %v", i, st.Err())
		}
		m := st.Msg()
		if m.GetMessageId() != id || m.GetTopic() != "tx" || m.GetVerdict() != "accept" || !m.GetOwn() || m.GetSizeBytes() != 5 || (string(m.GetData()) == "hello") != (i == 0) {
			t.Errorf("tail %d: %v", i, m)
		}
	}
	way, err := reader.GetTrace(ctx, connect.NewRequest(&pb.GetTraceRequest{MessageId: id}))
	if err != nil || !way.Msg.GetOwn() || way.Msg.GetVerdict() != "accept" || way.Msg.GetTopic() != "tx" {
		t.Errorf("trace: %v %v", way, err)
	}
	if got := h.do("GET", "/api/v1/gossip/traces/"+id, h.token("read"), ""); got.status != 200 || !strings.Contains(string(got.body), `"hops":[]`) {
		t.Errorf("trace by REST: %d %s", got.status, got.body)
	}
	refused := func(st *connect.ServerStreamForClient[pb.TailMessage], err error) error {
		if err != nil {
			return err
		}
		defer st.Close()
		st.Receive()
		return st.Err()
	}
	if err := refused(reader.Tail(ctx, connect.NewRequest(&pb.TailRequest{Data: true}))); connect.CodeOf(err) != connect.CodePermissionDenied || plyCode(err) != "PLY-005" {
		t.Errorf("bytes for a reader: %v", err)
	}
	if err := refused(parleyv1connect.NewGossipServiceClient(http.DefaultClient, h.base).Tail(ctx, connect.NewRequest(&pb.TailRequest{}))); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a tail for nobody: %v", err)
	}
	for _, c := range []struct {
		client      parleyv1connect.GossipServiceClient
		topic, data string
		want        connect.Code
	}{
		{reader, "tx", "x", connect.CodePermissionDenied}, {admin, "handshake", "x", connect.CodeNotFound}, {admin, "tx", "", connect.CodeInvalidArgument},
		{admin, "tx", strings.Repeat("x", 2<<10), connect.CodeResourceExhausted},
	} {
		if _, err := c.client.Publish(ctx, connect.NewRequest(&pb.GossipPublishRequest{Topic: c.topic, Data: []byte(c.data)})); connect.CodeOf(err) != c.want {
			t.Errorf("publish %d bytes to %s: %v, want %v", len(c.data), c.topic, err, c.want)
		}
	}
}

// Word of messages that were left out goes as it is, without a message.
func TestTailed(t *testing.T) {
	m, err := tailed(parley.TailedMessage{Lost: 7})
	if err != nil || !proto.Equal(m, &pb.TailMessage{Lost: 7}) {
		t.Errorf("%v, %v", m, err)
	}
	m, err = tailed(parley.TailedMessage{GossipMessage: parley.GossipMessage{ID: "ab", At: time.Now(), Verdict: "accept"}, Lost: 1})
	if err != nil || m.GetMessageId() != "ab" || m.GetLost() != 1 || m.GetAt() == nil {
		t.Errorf("%v, %v", m, err)
	}
}
