package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

// largeHouse takes messages of 10 MiB.
func largeHouse(t *testing.T, peers ...string) (*house, parleyv1connect.SidecarServiceClient) {
	t.Helper()
	h := start(t, func(c *config.Config) {
		c.Network, c.P2P.StaticPeers = config.NetworkSidecar, peers
		c.Sidecar.ValidateTimeout, c.Sidecar.MaxMessage = 10*time.Second, 10<<20 // the machine may be busy
	})
	client := h2c(nil)
	t.Cleanup(client.CloseIdleConnections)
	return h, parleyv1connect.NewSidecarServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
}

// Programs of three nodes in a line send each other 4 and 10 MiB: each is asked
// once, and its node's reader told once. A byte more is refused.
func TestLargeMessages(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ha, a := largeHouse(t)
	hb, b := largeHouse(t, strings.TrimPrefix(ha.base, "http://"))
	hc, c := largeHouse(t, strings.TrimPrefix(hb.base, "http://"))
	topic := &pb.Topic{Name: "blob", MaxBytes: 10 << 20, Validate: true}
	ap, bp, cp := attach(ctx, t, a, programHello(topic)), attach(ctx, t, b, programHello(topic)), attach(ctx, t, c, programHello(topic))
	for h, peers := range map[*house]int{ha: 1, hb: 2, hc: 1} {
		h.waitFor("the mesh of chunks", func() bool {
			for _, s := range h.node.GossipTopics() {
				if s.Topic == "chunk" {
					return s.Mesh >= peers
				}
			}
			return false
		})
	}
	reader, err := c.Subscribe(ctx, connect.NewRequest(&pb.SubscribeRequest{Topics: []string{"blob"}}))
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{4 << 20, 10 << 20, 4 << 20} {
		data := bytes.Repeat([]byte{byte(i), 7}, size/2)
		sent, err := a.Publish(ctx, connect.NewRequest(&pb.PublishRequest{Topic: "blob", Data: data}))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*attachStream{bp, cp} {
			ask := next(t, p, (*pb.ToApp).GetValidate)
			if sha256.Sum256(ask.GetData()) != sha256.Sum256(data) || ask.GetFrom() != ha.node.ID().String() {
				t.Fatalf("asked about %d bytes of %s, want %d of %s", len(ask.GetData()), ask.GetFrom(), size, ha.node.ID())
			}
			if err := p.Send(&pb.FromApp{Msg: &pb.FromApp_Verdict{Verdict: &pb.Verdict{Id: ask.GetId()}}}); err != nil {
				t.Fatal(err)
			}
		}
		if echo := next(t, ap, (*pb.ToApp).GetMessage); echo.GetId() != sent.Msg.GetMessageId() {
			t.Errorf("the publisher's program is told of %s, want %s", echo.GetId(), sent.Msg.GetMessageId())
		}
		if !reader.Receive() || reader.Msg().GetId() != sent.Msg.GetMessageId() || len(reader.Msg().GetData()) != size {
			t.Errorf("read %d bytes, %v", len(reader.Msg().GetData()), reader.Err())
		}
	}
	for _, size := range []int{10<<20 + 1, 11 << 20} {
		_, err := a.Publish(ctx, connect.NewRequest(&pb.PublishRequest{Topic: "blob", Data: make([]byte, size)}))
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
