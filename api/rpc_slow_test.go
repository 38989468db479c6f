package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/event"
)

// TestGRPCSlowClient has a client that takes nothing. The node does not wait
// for it: it serves others, and cuts it off.
func TestGRPCSlowClient(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits until a client is too slow")
	}
	t.Parallel()
	h := start(t, nil)
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &p, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 10}}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := parleyv1connect.NewNodeServiceClient(client, h.base, connect.WithGRPC())
	s, err := nodes.WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{Types: []string{"node.stopping"}}))
	if err != nil || !s.Receive() {
		t.Fatalf("%v %v", err, s.Err())
	}
	watching := func() bool { h.hub.mu.Lock(); defer h.hub.mu.Unlock(); return len(h.hub.clients) > 0 }
	if !watching() {
		t.Fatal("nobody watches")
	}
	began, long := time.Now(), strings.Repeat("x", 4<<10)
	for range 2 * queueSize {
		h.node.Events().Publish(event.NodeStopping{Why: long})
	}
	if _, err := nodes.GetStatus(ctx, connect.NewRequest(&pb.GetStatusRequest{})); err != nil {
		t.Errorf("beside the slow client: %v", err)
	}
	h.waitFor("the end of the slow client", func() bool { return !watching() })
	if took := time.Since(began); took < streamWrite-time.Second {
		t.Errorf("cut off after %s, want %s", took, streamWrite)
	}
	for s.Receive() {
	}
	if s.Err() == nil {
		t.Error("the stream ended as if it were whole")
	}
}

// TestGRPCLagging has a client that is told of a lag again and again.
func TestGRPCLagging(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := parleyv1connect.NewNodeServiceClient(client, h.base, connect.WithGRPC())
	s, err := nodes.WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{Types: []string{"node.stopping"}}))
	if err != nil || !s.Receive() {
		t.Fatalf("%v %v", err, s.Err())
	}
	h.hub.mu.Lock()
	for q := range h.hub.clients {
		q.lose(7, 100, 106) // as if the bus had gone on without it
	}
	h.hub.mu.Unlock()
	if !s.Receive() || s.Msg().GetLagged().GetDropped() != 7 || s.Msg().GetLagged().GetFrom() != 100 || s.Msg().GetLagged().GetTo() != 106 {
		t.Fatalf("lagged: %v %v", s.Msg(), s.Err())
	}
	lag := func() {
		h.hub.mu.Lock()
		defer h.hub.mu.Unlock()
		for q := range h.hub.clients {
			q.lose(1, 107, 107)
		}
	}
	if lag(); !s.Receive() || s.Msg().GetLagged() == nil {
		t.Fatalf("second lag: %v %v", s.Msg(), s.Err())
	}
	lag()
	if s.Receive() || connect.CodeOf(s.Err()) != connect.CodeResourceExhausted || plyCode(s.Err()) != rateLimited.code {
		t.Errorf("after the third lag: %v %v", s.Msg(), s.Err())
	}
}
