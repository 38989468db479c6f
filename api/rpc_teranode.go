package api

import (
	"context"
	"math"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/p2p_api"
	"github.com/parley-p2p/parley/api/proto/p2p_api/p2papiconnect"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

func (s *Server) teranodeService() {
	grpcService(s, p2papiconnect.NewPeerServiceHandler, p2papiconnect.PeerServiceHandler(teranodeCalls{s}), map[string]grpcRule{
		"GetPeers": {access: read}, "IsBanned": {access: read}, "ListBanned": {access: read, places: s.lists},
		"BanPeer": {access: admin}, "UnbanPeer": {access: admin}, "ClearBanned": {access: admin}, "AddBanScore": {access: admin},
		"ConnectPeer": {access: admin}, "DisconnectPeer": {access: admin},
	})
}

type teranodeCalls struct{ s *Server }

func (c teranodeCalls) GetPeers(context.Context, *connect.Request[emptypb.Empty]) (*connect.Response[pb.GetPeersResponse], error) {
	local := ""
	if a := c.s.node.Info().Advertised; len(a) > 0 {
		local = a[0]
	}
	out := &pb.GetPeersResponse{}
	for _, p := range c.s.node.Peers() {
		m := teranodePeer(p)
		m.AddrLocal = local
		out.Peers = append(out.Peers, m)
	}
	return connect.NewResponse(out), nil
}

func teranodePeer(p parley.Peer) *pb.Peer {
	seen := unix(p.LastSeen)
	m := &pb.Peer{
		Id: p.ID.String(), Addr: p.Addr, Services: strings.Join(p.Services, "|"), LastSend: seen, LastRecv: seen,
		BytesSent: uint64(max(0, p.BytesOut)), BytesReceived: uint64(max(0, p.BytesIn)), Inbound: p.Direction == "inbound",
		ConnTime: unix(p.ConnectedAt), PingTime: int64(p.LatencyMS * 1000), Version: wire.ProtocolVersion, SubVer: p.Agent,
		StartingHeight: shortHeight(p.Claimed), Banscore: int32(p.Points), Whitelisted: p.Trusted, //nolint:gosec // points are few
	}
	if m.CurrentHeight = m.StartingHeight; p.Validated != nil {
		m.CurrentHeight = shortHeight(p.Validated)
	}
	return m
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func shortHeight(h *chain.Head) uint32 {
	if h == nil {
		return 0
	}
	return uint32(min(h.Height, math.MaxUint32))
}

// withoutPort is a target of a ban, of which Teranode's clients may give the port.
func withoutPort(target string) string {
	if ap, err := netip.ParseAddrPort(target); err == nil {
		return ap.Addr().String()
	}
	return target
}

func (c teranodeCalls) BanPeer(ctx context.Context, r *connect.Request[pb.BanPeerRequest]) (*connect.Response[pb.BanPeerResponse], error) {
	in := &newBan{}
	in.Body.Target = withoutPort(r.Msg.GetAddr())
	if at := r.Msg.GetUntil(); at != 0 {
		until := time.Unix(at, 0)
		in.Body.Until = &until
	}
	if err := fits(in); err != nil {
		return nil, err
	}
	if _, err := c.s.ban(ctx, in); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.BanPeerResponse{Ok: true}), nil
}

func (c teranodeCalls) UnbanPeer(ctx context.Context, r *connect.Request[pb.UnbanPeerRequest]) (*connect.Response[pb.UnbanPeerResponse], error) {
	in := &BanPath{Target: withoutPort(r.Msg.GetAddr())}
	if err := fits(in); err != nil {
		return nil, err
	}
	if _, err := c.s.unban(ctx, in); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.UnbanPeerResponse{Ok: true}), nil
}

func (c teranodeCalls) IsBanned(ctx context.Context, r *connect.Request[pb.IsBannedRequest]) (*connect.Response[pb.IsBannedResponse], error) {
	in := &banTarget{withoutPort(r.Msg.GetIpOrSubnet())}
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := c.s.checkBan(ctx, in)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.IsBannedResponse{IsBanned: a.Body.Banned}), nil
}

func (c teranodeCalls) ListBanned(context.Context, *connect.Request[emptypb.Empty]) (*connect.Response[pb.ListBannedResponse], error) {
	out := &pb.ListBannedResponse{}
	for _, b := range c.s.node.Bans("", "", false) {
		out.Banned = append(out.Banned, b.Target)
	}
	return connect.NewResponse(out), nil
}

func (c teranodeCalls) ClearBanned(ctx context.Context, _ *connect.Request[emptypb.Empty]) (*connect.Response[pb.ClearBannedResponse], error) {
	if _, err := c.s.clearBans(ctx, &bansOrigin{"all"}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ClearBannedResponse{Ok: true}), nil
}

// teranodePoints are what Teranode gives for a word; for others it gives one.
var teranodePoints = map[string]int{
	"invalid_subtree": 10, "invalid_block": 10, "protocol_violation": 20, "catchup_failure": 30, "spam": 50,
	"catchup_malicious": 50, "corrupt_block_body": 50,
}

func (c teranodeCalls) AddBanScore(ctx context.Context, r *connect.Request[pb.AddBanScoreRequest]) (*connect.Response[pb.AddBanScoreResponse], error) {
	in := &penalty{PeerPath: PeerPath{ID: r.Msg.GetPeerId()}}
	in.Body.Note = r.Msg.GetReason()
	if in.Body.Points = teranodePoints[in.Body.Note]; in.Body.Points == 0 {
		in.Body.Points = 1
	}
	if _, err := noted(ctx, c.s.penalizePeer, in); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.AddBanScoreResponse{Ok: true}), nil
}

// ConnectPeer, as DisconnectPeer, tells in the answer why it did not succeed.
func (c teranodeCalls) ConnectPeer(ctx context.Context, r *connect.Request[pb.ConnectPeerRequest]) (*connect.Response[pb.ConnectPeerResponse], error) {
	in := &newPeer{}
	in.Body.Address = r.Msg.GetPeerAddress()
	err := fits(in)
	if err == nil {
		_, err = c.s.addPeer(ctx, in)
	}
	return connect.NewResponse(&pb.ConnectPeerResponse{Success: err == nil, Error: c.s.why(err)}), nil
}

func (c teranodeCalls) DisconnectPeer(ctx context.Context, r *connect.Request[pb.DisconnectPeerRequest]) (*connect.Response[pb.DisconnectPeerResponse], error) {
	_, err := noted(ctx, c.s.disconnectPeer, &PeerPath{ID: r.Msg.GetPeerId()})
	return connect.NewResponse(&pb.DisconnectPeerResponse{Success: err == nil, Error: c.s.why(err)}), nil
}

// why is an error as text, "" = none.
func (s *Server) why(err error) string {
	if err == nil {
		return ""
	}
	p := s.problemOf(err)
	if len(p.Errors) > 0 {
		return p.Detail + ": " + p.Errors[0].Location + ": " + p.Errors[0].Message
	}
	return p.Detail
}
