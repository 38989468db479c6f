package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	p2papi "github.com/parley-p2p/parley/api/proto/p2p_api"
	"github.com/parley-p2p/parley/api/proto/p2p_api/p2papiconnect"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

func (p pair) teranodePeers(t *testing.T) {
	h, id := p.h, p.follower.node.ID().String()
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := p2papiconnect.NewPeerServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
	peers, err := c.GetPeers(ctx, connect.NewRequest(&emptypb.Empty{}))
	if err != nil || len(peers.Msg.GetPeers()) != 1 {
		t.Fatalf("peers: %v %v", peers, err)
	}
	if m := peers.Msg.GetPeers()[0]; m.GetId() != id || m.GetInbound() != (h.node.Peers()[0].Direction == "inbound") || m.GetAddr() == "" || m.GetConnTime() == 0 || m.GetCurrentHeight() == 0 || m.GetSubVer() == "" || m.GetVersion() == 0 {
		t.Errorf("peer: %v", m)
	}
	until := time.Now().Add(time.Hour).Unix()
	if got, err := c.BanPeer(ctx, connect.NewRequest(&p2papi.BanPeerRequest{Addr: "203.0.113.77:9905", Until: until})); err != nil || !got.Msg.GetOk() {
		t.Errorf("ban: %v %v", got, err)
	}
	if b, err := h.node.BanOf("203.0.113.77"); err != nil || b == nil || b.Until.Unix() != until {
		t.Errorf("banned: %v %v", b, err)
	}
	is, err := c.IsBanned(ctx, connect.NewRequest(&p2papi.IsBannedRequest{IpOrSubnet: "203.0.113.77"}))
	list, err2 := c.ListBanned(ctx, connect.NewRequest(&emptypb.Empty{}))
	if err != nil || err2 != nil || !is.Msg.GetIsBanned() || !slices.ContainsFunc(list.Msg.GetBanned(), func(s string) bool { return strings.HasPrefix(s, "203.0.113.77") }) {
		t.Errorf("is banned: %v %v; list: %v %v", is, err, list, err2)
	}
	if got, err := c.UnbanPeer(ctx, connect.NewRequest(&p2papi.UnbanPeerRequest{Addr: "203.0.113.77"})); err != nil || !got.Msg.GetOk() {
		t.Errorf("unban: %v %v", got, err)
	}
	if _, err := c.UnbanPeer(ctx, connect.NewRequest(&p2papi.UnbanPeerRequest{Addr: "203.0.113.77"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("unban again: %v", err)
	}
	before, _ := h.node.PeerDetail(p.follower.node.ID())
	for reason, points := range map[string]int{"invalid_block": 10, "what": 1} {
		if got, err := c.AddBanScore(ctx, connect.NewRequest(&p2papi.AddBanScoreRequest{PeerId: id, Reason: reason})); err != nil || !got.Msg.GetOk() {
			t.Errorf("score: %v %v", got, err)
		}
		now, _ := h.node.PeerDetail(p.follower.node.ID())
		r := now.Reputation.Reasons[len(now.Reputation.Reasons)-1]
		if now.Points-before.Points != points || r.Reason != chain.Manual || r.Detail != reason {
			t.Errorf("%s: %d points more, %+v", reason, now.Points-before.Points, r)
		}
		before = now
	}
	dial, err := c.ConnectPeer(ctx, connect.NewRequest(&p2papi.ConnectPeerRequest{PeerAddress: "/ip4/127.0.0.1/tcp/1"}))
	if err != nil || dial.Msg.GetSuccess() || dial.Msg.GetError() == "" {
		t.Errorf("connect: %v %v", dial, err)
	}
	if got, err := c.DisconnectPeer(ctx, connect.NewRequest(&p2papi.DisconnectPeerRequest{PeerId: "nobody"})); err != nil || got.Msg.GetSuccess() || got.Msg.GetError() == "" {
		t.Errorf("disconnect nobody: %v %v", got, err)
	}
	if got, err := c.DisconnectPeer(ctx, connect.NewRequest(&p2papi.DisconnectPeerRequest{PeerId: id})); err != nil || !got.Msg.GetSuccess() {
		t.Errorf("disconnect: %v %v", got, err)
	}
	p.follower.waitFor("the peer again", func() bool { return p.follower.node.PeerCount().Connected == 1 })
	if got, err := c.ClearBanned(ctx, connect.NewRequest(&emptypb.Empty{})); err != nil || !got.Msg.GetOk() || len(h.node.Bans("", "", false)) != 0 {
		t.Errorf("clear: %v %v", got, err)
	}
	// the bytes of a ban as Teranode's own client sends them
	raw, _ := hex.DecodeString("0a0b3230332e302e3131332e39" + "10" + "80e0efbb0f")
	if got := h.do("POST", "/p2p_api.PeerService/BanPeer", h.token("admin"), string(raw), "Content-Type", "application/proto"); got.status != 200 || string(got.body) != "\x08\x01" {
		t.Errorf("by its bytes: %d %q", got.status, got.body)
	}
	if b, err := h.node.BanOf("203.0.113.9"); err != nil || b == nil || b.Until.Year() < 2030 {
		t.Errorf("banned by bytes: %+v %v", b, err)
	}
	_ = h.node.Unban(ctx, "203.0.113.9", "test")
}

func (p pair) grpcEvents(t *testing.T) {
	h := p.h
	client := h2c(nil)
	defer client.CloseIdleConnections()
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			client := client
			if name == "Connect JSON" || name == "gRPC-Web" { // browsers may have HTTP/1.1 alone
				client = &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
			}
			nodes := parleyv1connect.NewNodeServiceClient(client, h.base, option)
			open := func(types []string, since *uint64) *connect.ServerStreamForClient[pb.Watched] {
				t.Helper()
				s, err := nodes.WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{Types: types, Since: since}))
				if err != nil || !s.Receive() {
					t.Fatalf("watch: %v %v", err, s.Err())
				}
				return s
			}
			s := open([]string{"peer.un*"}, nil)
			hello := s.Msg().GetHello()
			if hello.GetResumed() || hello.GetBoot() == "" || hello.GetSnapshot().GetStatus().GetPeerId() != h.node.ID().String() || len(hello.GetSnapshot().GetPeers()) != 1 || hello.GetSnapshot().GetChain() == nil {
				t.Fatalf("hello: %v", hello)
			}
			var seqs []uint64
			for i := range 3 {
				h.node.Events().Publish(event.NodeStopping{Why: "not asked for"}, event.PeerUnbanned{Target: strconv.Itoa(i), By: name})
			}
			for i := range 3 {
				if !s.Receive() {
					t.Fatal(s.Err())
				}
				e := s.Msg().GetEvent()
				if e.GetType() != "peer.unbanned" || e.GetV() != 1 || e.GetData().AsMap()["target"] != strconv.Itoa(i) || time.Since(e.GetTs().AsTime()) > time.Minute {
					t.Errorf("event %d: %v", i, e)
				}
				seqs = append(seqs, e.GetSeq())
			}
			_ = s.Close()
			resumed := open([]string{"peer.un*"}, &seqs[0])
			if m := resumed.Msg().GetHello(); !m.GetResumed() || m.GetSnapshot() != nil {
				t.Errorf("hello after a break: %v", m)
			}
			for _, want := range seqs[1:] {
				if !resumed.Receive() || resumed.Msg().GetEvent().GetSeq() != want {
					t.Errorf("missed event: %v %v, want seq %d", resumed.Msg(), resumed.Err(), want)
				}
			}
			_ = resumed.Close()
			one := uint64(1)
			if m := open(nil, &one).Msg().GetHello(); m.GetResumed() || m.GetSnapshot() == nil {
				t.Errorf("since before the buffer: %v", m)
			}
			bad, err := nodes.WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{Types: []string{"["}}))
			if err == nil {
				bad.Receive()
				err = bad.Err()
			}
			if connect.CodeOf(err) != connect.CodeInvalidArgument || plyCode(err) != badRequest.code {
				t.Errorf("bad types: %v", err)
			}
		})
	}
}

func (p pair) grpcBlocks(t *testing.T) {
	h := p.h
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	chains := parleyv1connect.NewChainServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
	from := uint64(0)
	all, err := chains.WatchBlocks(ctx, connect.NewRequest(&pb.WatchBlocksRequest{From: &from}))
	if err != nil {
		t.Fatal(err)
	}
	news, err := chains.WatchBlocks(ctx, connect.NewRequest(&pb.WatchBlocksRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	news.ResponseHeader() // waits for it
	made, err := chains.SubmitRecord(ctx, connect.NewRequest(&pb.SubmitRecordRequest{Subject: "watched", Body: "1"}))
	if err != nil {
		t.Fatal(err)
	}
	prev := ""
	for height := uint64(0); height <= made.Msg.GetHeight(); height++ {
		if !all.Receive() {
			t.Fatal(all.Err())
		}
		b := all.Msg()
		if b.GetHeight() != height || height > 0 && b.GetPrevHash() != prev {
			t.Fatalf("block %d, want %d after %s: %v", b.GetHeight(), height, prev, b)
		}
		prev = b.GetHash()
	}
	if !news.Receive() || news.Msg().GetHeight() != made.Msg.GetHeight() {
		t.Errorf("the first new one: %v %v", news.Msg(), news.Err())
	}
}
