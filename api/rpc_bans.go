package api

import (
	"bytes"
	"context"

	"connectrpc.com/connect"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

func (s *Server) banService() {
	grpcService(s, parleyv1connect.NewBanServiceHandler, parleyv1connect.BanServiceHandler(banCalls{s}), map[string]grpcRule{
		"ListBans": {access: read, places: s.lists}, "CheckBan": {access: read}, "WatchBans": {access: read, stream: true},
		"AddBan": {access: admin}, "RemoveBan": {access: admin}, "ClearBans": {access: admin},
		"ImportBans": {access: admin, places: s.dumps, stream: true, atMost: importLimit},
	})
}

const importLimit = 5 * bodyTimeout // for the whole list

type banCalls struct{ s *Server }

func (c banCalls) ListBans(ctx context.Context, r *connect.Request[pb.ListBansRequest]) (*connect.Response[pb.ListBansResponse], error) {
	m := r.Msg
	return asked[pb.ListBansResponse](ctx, c.s.bans, &bansQuery{Page: *pageIn(m), Kind: m.GetKind(), Origin: m.GetOrigin(), All: m.GetAll()})
}

func (c banCalls) CheckBan(ctx context.Context, r *connect.Request[pb.CheckBanRequest]) (*connect.Response[pb.CheckBanResponse], error) {
	return asked[pb.CheckBanResponse](ctx, c.s.checkBan, &banTarget{r.Msg.GetTarget()})
}

func (c banCalls) AddBan(ctx context.Context, r *connect.Request[pb.AddBanRequest]) (*connect.Response[pb.AddBanResponse], error) {
	m := r.Msg
	in := &newBan{DryRun: m.GetDryRun()}
	in.Body.Target, in.Body.For, in.Body.Forever = m.GetTarget(), m.GetFor(), m.GetForever()
	in.Body.Reason, in.Body.Note, in.Body.Force = m.GetReason(), m.GetNote(), m.GetForce()
	if m.Until != nil {
		if !m.Until.IsValid() {
			return nil, badRequest.problem("until: this is no time")
		}
		until := m.Until.AsTime()
		in.Body.Until = &until
	}
	if err := fits(in); err != nil {
		return nil, err
	}
	made, err := c.s.ban(ctx, in)
	if err != nil {
		return nil, err
	}
	out, err := shown[pb.AddBanResponse](made.Body)
	if err != nil {
		return nil, err
	}
	if out.Ban, err = shown[pb.Ban](made.Body.Ban); err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

func (c banCalls) RemoveBan(ctx context.Context, r *connect.Request[pb.RemoveBanRequest]) (*connect.Response[pb.RemoveBanResponse], error) {
	in := &BanPath{Target: r.Msg.GetTarget()}
	if err := fits(in); err != nil {
		return nil, err
	}
	if _, err := c.s.unban(ctx, in); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RemoveBanResponse{}), nil
}

func (c banCalls) ClearBans(ctx context.Context, r *connect.Request[pb.ClearBansRequest]) (*connect.Response[pb.ClearBansResponse], error) {
	return asked[pb.ClearBansResponse](ctx, c.s.clearBans, &bansOrigin{r.Msg.GetOrigin()})
}

// ImportBans judges the whole list at once, as a body of HTTP is judged.
func (c banCalls) ImportBans(ctx context.Context, from *connect.ClientStream[pb.ImportBansRequest]) (*connect.Response[pb.ImportBansResponse], error) {
	var body bytes.Buffer
	force := false
	for from.Receive() {
		force = force || from.Msg().GetForce()
		if body.Len()+len(from.Msg().GetData()) > maxImport {
			return nil, bodyTooLarge(maxImport)
		}
		body.Write(from.Msg().GetData())
	}
	if err := from.Err(); err != nil {
		return nil, err
	}
	sum, err := c.s.takeBans(ctx, &body, force)
	return answered[pb.ImportBansResponse](sum, err)
}

func (c banCalls) WatchBans(ctx context.Context, r *connect.Request[pb.WatchBansRequest], to *connect.ServerStream[pb.Watched]) error {
	return c.s.watch(ctx, []string{"peer.banned", "peer.unbanned"}, r.Msg.Since, to)
}
