package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

// protocols are the kinds of client that there are.
var protocols = map[string]connect.ClientOption{
	"gRPC": connect.WithGRPC(), "gRPC-Web": connect.WithGRPCWeb(), "Connect": connect.WithClientOptions(), "Connect JSON": connect.WithProtoJSON(),
}

// plain is JSON with what protobuf writes in another way made equal: numbers
// are text, and what is empty is left out; what moves is left out too.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for k, e := range v {
			switch k {
			case "uptime_s", "age_s", "latency_ms", "bytes_in", "bytes_out", "last_seen", "gossip_score", "time", "eta_s", "useful_at", "added_at", "mesh", "messages", "messages_s", "duplicates", "score", "target":
				continue
			}
			if e = plain(e); e != nil {
				m[k] = e
			}
		}
		if len(m) == 0 {
			return nil
		}
		return m
	case []any:
		var list []any
		for _, e := range v {
			list = append(list, plain(e))
		}
		if list == nil {
			return nil
		}
		slices.SortStableFunc(list, func(a, b any) int { // addresses have no order
			x, text := a.(string)
			y, too := b.(string)
			if text && too {
				return strings.Compare(x, y)
			}
			return 0
		})
		return list
	case float64:
		if v == 0 {
			return nil
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		if !v {
			return nil
		}
	case string:
		if v == "" || v == "0" {
			return nil
		}
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return t.UTC().Format(time.RFC3339Nano)
		}
	}
	return v
}

func plainText(t *testing.T, b []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	out, err := json.MarshalIndent(plain(v), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// grpcViews asks for the same by REST and, as curl would, by Connect.
func (p pair) grpcViews(t *testing.T) {
	h, follower := p.h, p.follower
	peerID, hostID := follower.node.ID().String(), h.node.ID().String()
	for _, c := range []struct {
		h                *house
		call, body, path string
	}{
		{h, "NodeService/GetStatus", `{}`, "status"}, {h, "NodeService/GetNode", `{}`, "node"}, {h, "NodeService/GetHealth", `{}`, "health"},
		{h, "PeerService/ListPeers", `{"limit":1}`, "peers?limit=1"}, {h, "PeerService/CountPeers", `{}`, "peers/count"},
		{follower, "PeerService/ListStaticPeers", `{}`, "static-peers"},
		{follower, "PeerService/GetHistory", `{"limit":2}`, "peers/history?limit=2"},
		{follower, "PeerService/GetHistory", `{"id":"` + hostID + `","limit":1}`, "peers/" + hostID + "/history?limit=1"},
		{h, "BanService/ListBans", `{"all":true,"kind":"cidr"}`, "bans?all=true&kind=cidr"}, {h, "BanService/CheckBan", `{"target":"192.0.2.1"}`, "bans/check?target=192.0.2.1"},
		{follower, "DhtService/GetDht", `{}`, "dht"}, {follower, "DhtService/GetTable", `{}`, "dht/table"},
		{h, "GossipService/ListTopics", `{"limit":2}`, "gossip/topics?limit=2"}, {h, "GossipService/GetMesh", `{"topic":"block"}`, "gossip/mesh?topic=block"},
		{h, "ChainService/GetChain", `{}`, "chain"}, {h, "ChainService/GetHead", `{}`, "chain/head"},
		{h, "ChainService/GetBlock", `{"ref":"1"}`, "chain/blocks/1"}, {h, "ChainService/ListBlocks", `{"limit":2,"order":"desc"}`, "chain/blocks?limit=2&order=desc"},
		{h, "ChainService/ListBlocks", `{"from":1,"limit":1}`, "chain/blocks?from=1&limit=1"}, {h, "ChainService/ListValidators", `{}`, "chain/validators"},
	} {
		rest := c.h.do("GET", "/api/v1/"+c.path, "", "")
		got := c.h.do("POST", "/parley.v1."+c.call, "", c.body)
		if rest.status != 200 || got.status != 200 {
			t.Errorf("%s: %d %s; REST %d", c.call, got.status, got.body, rest.status)
			continue
		}
		if a, b := plainText(t, got.body), plainText(t, rest.body); a != b {
			t.Errorf("%s:\n%s\nREST:\n%s", c.call, a, b)
		}
	}
	got := h.do("POST", "/parley.v1.PeerService/GetPeer", "", `{"id":"`+peerID+`"}`).json(t)
	if got["peer"].(map[string]any)["id"] != peerID || got["reputation"] == nil || len(got["protocols"].([]any)) == 0 {
		t.Errorf("peer: %v", got)
	}
	proof := h.do("POST", "/parley.v1.ChainService/GetProof", "", `{"id":"`+p.id+`"}`).json(t)
	if rest := h.do("GET", "/api/v1/records/"+p.id+"/proof", "", ""); plainText(t, rest.body) != plainText(t, []byte(proof["json"].(string))) {
		t.Errorf("proof: %v", proof)
	}
	heads := h.do("POST", "/parley.v1.ChainService/ListHeads", "", `{}`).json(t)
	if items := heads["items"].([]any); len(items) != 1 || items[0].(map[string]any)["peer"] != peerID {
		t.Errorf("heads: %v", heads)
	}
}

// grpcCalls changes things, by every kind of client.
func (p pair) grpcCalls(t *testing.T) {
	h, follower := p.h, p.follower
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			options := []connect.ClientOption{option, bearer(h.token("admin"))}
			chains := parleyv1connect.NewChainServiceClient(client, h.base, options...)
			body := `{ "z": 1, "a": 12345678901234567890 }`
			made, err := chains.SubmitRecord(ctx, connect.NewRequest(&pb.SubmitRecordRequest{Subject: "by " + name, Body: body}))
			if err != nil || made.Msg.GetStatus() != "committed" || made.Msg.GetBody() != body || made.Msg.Height == nil {
				t.Fatalf("submit: %v %v", made, err)
			}
			again, err := chains.GetRecord(ctx, connect.NewRequest(&pb.GetRecordRequest{Id: made.Msg.GetId()}))
			if err != nil || again.Msg.GetRaw() != made.Msg.GetRaw() || again.Msg.GetBody() != body {
				t.Errorf("record: %v %v", again, err)
			}
			octets := []byte{0, 1, 255}
			other, err := chains.SubmitRecord(ctx, connect.NewRequest(&pb.SubmitRecordRequest{Subject: "by " + name, MediaType: "application/octet-stream", BodyBase64: octets, Ack: "accepted"}))
			if err != nil || !slices.Equal(other.Msg.GetBodyBase64(), octets) {
				t.Errorf("octets: %v %v", other, err)
			}
			for _, r := range []*pb.ListRecordsRequest{
				{Subject: "by " + name, Order: "asc", Limit: 1}, {Block: strconv.FormatUint(made.Msg.GetHeight(), 10)}, {Author: made.Msg.GetAuthor(), Limit: 1000},
			} {
				l, err := chains.ListRecords(ctx, connect.NewRequest(r))
				if err != nil || !slices.ContainsFunc(l.Msg.GetItems(), func(r *pb.Record) bool { return r.GetId() == made.Msg.GetId() && r.GetBody() == body }) {
					t.Errorf("records of %v: %v %v", r, l, err)
				}
			}
			plan, err := chains.ChangeValidators(ctx, connect.NewRequest(&pb.ChangeValidatorsRequest{
				Add: []*pb.Candidate{{Key: follower.node.ID().String()}}, AcceptTwo: true, DryRun: true,
			}))
			if err != nil || plan.Msg.GetQuorumAfter() != 2 || len(plan.Msg.GetAdded()) != 1 {
				t.Errorf("plan: %v %v", plan, err)
			}
			peers := parleyv1connect.NewPeerServiceClient(client, follower.base, option, bearer(follower.token("admin")))
			host := h.node.ID().String()
			for _, trusted := range []bool{true, false} {
				note, err := peers.SetTrusted(ctx, connect.NewRequest(&pb.SetTrustedRequest{Id: host, Trusted: trusted}))
				if err != nil || note.Msg.GetPeer().GetTrusted() != trusted || note.Msg.GetPeer().GetId() != host {
					t.Errorf("trusted %v: %v %v", trusted, note, err)
				}
			}
			added, err := peers.AddPeer(ctx, connect.NewRequest(&pb.AddPeerRequest{Address: "/ip4/127.0.0.1/tcp/1", Static: true}))
			if err != nil || added.Msg.GetItem() == "" {
				t.Errorf("add: %v %v", added, err)
			}
			removed, err := peers.RemovePeer(ctx, connect.NewRequest(&pb.RemovePeerRequest{Id: added.Msg.GetItem()}))
			if err != nil || len(removed.Msg.GetItems()) != 1 {
				t.Errorf("remove: %v %v", removed, err)
			}
			if _, err := peers.Connect(ctx, connect.NewRequest(&pb.ConnectRequest{Id: host})); err != nil {
				t.Error(err)
			}
			dht := parleyv1connect.NewDhtServiceClient(client, follower.base, option, bearer(follower.token("admin")))
			found, err := dht.FindNode(ctx, connect.NewRequest(&pb.FindNodeRequest{Peer: host}))
			if err != nil || len(found.Msg.GetPeers()) == 0 || found.Msg.GetPeers()[0].GetId() != host {
				t.Errorf("find: %v %v", found, err)
			}
			value, err := dht.PutValue(ctx, connect.NewRequest(&pb.PutValueRequest{Key: "grpc", Value: octets}))
			if err != nil || value.Msg.GetAuthor() != follower.node.ID().String() {
				t.Fatalf("put: %v %v", value, err)
			}
			if got, err := dht.GetValue(ctx, connect.NewRequest(&pb.GetValueRequest{Key: value.Msg.GetKey(), Quorum: 1})); err != nil || !slices.Equal(got.Msg.GetValue(), octets) {
				t.Errorf("value: %v %v", got, err)
			}
			if _, err := dht.Provide(ctx, connect.NewRequest(&pb.ProvideRequest{Key: "a thing"})); err != nil {
				t.Error(err)
			}
			if _, err := dht.FindProviders(ctx, connect.NewRequest(&pb.FindProvidersRequest{Key: "a thing", Limit: 1})); err != nil {
				t.Error(err)
			}
			nodes := parleyv1connect.NewNodeServiceClient(client, h.base, options...)
			if _, err := nodes.ReloadConfig(ctx, connect.NewRequest(&pb.ReloadConfigRequest{})); err != nil {
				t.Error(err)
			}
		})
	}
	follower.waitFor("the peer again", func() bool { return follower.node.PeerCount().Connected == 1 })
}

// grpcFaults looks at the codes of what is refused, as every kind of client
// sees them.
func (p pair) grpcFaults(t *testing.T) {
	h := p.h
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, option := range protocols {
		for token, calls := range map[string][]fault{
			"": {
				{"BanService/AddBan", &pb.AddBanRequest{Target: "192.0.2.1"}, connect.CodeUnauthenticated, "PLY-004"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s"}, connect.CodeUnauthenticated, "PLY-004"},
				{"ChainService/GetBlock", &pb.GetBlockRequest{Ref: "99999"}, connect.CodeNotFound, "PLY-006"},
				{"ChainService/GetBlock", &pb.GetBlockRequest{Ref: "latest"}, connect.CodeInvalidArgument, "PLY-002"},
				{"PeerService/ListPeers", &pb.ListPeersRequest{Limit: 1001}, connect.CodeInvalidArgument, "PLY-003"},
				{"PeerService/ListPeers", &pb.ListPeersRequest{State: "odd"}, connect.CodeInvalidArgument, "PLY-003"},
				{"ChainService/ListRecords", &pb.ListRecordsRequest{}, connect.CodeInvalidArgument, "PLY-002"},
				{"ChainService/ListRecords", &pb.ListRecordsRequest{Block: "1", Author: "x"}, connect.CodeInvalidArgument, "PLY-002"},
				{"ChainService/GetRecord", &pb.GetRecordRequest{Id: strings.Repeat("ab", 32)}, connect.CodeNotFound, "PLY-006"},
				{"NoService/Do", &pb.GetChainRequest{}, connect.CodeUnimplemented, "PLY-011"},
				{"ChainService/Do", &pb.GetChainRequest{}, connect.CodeUnimplemented, "PLY-011"},
			},
			h.token("read"): {
				{"BanService/AddBan", &pb.AddBanRequest{Target: "192.0.2.1"}, connect.CodePermissionDenied, "PLY-005"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s"}, connect.CodePermissionDenied, "PLY-005"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Raw: "00"}, connect.CodeInvalidArgument, "PLY-017"},
			},
			"x.y.z": {{"ChainService/GetChain", &pb.GetChainRequest{}, connect.CodeUnauthenticated, "PLY-004"}},
			h.token("admin"): {
				{"BanService/AddBan", &pb.AddBanRequest{Target: "0.0.0.0/0"}, connect.CodeFailedPrecondition, "PLY-007"},
				{"BanService/AddBan", &pb.AddBanRequest{Target: "host.example"}, connect.CodeInvalidArgument, "PLY-002"},
				{"BanService/AddBan", &pb.AddBanRequest{Target: "192.0.2.1", For: "soon"}, connect.CodeInvalidArgument, "PLY-002"},
				{"BanService/RemoveBan", &pb.RemoveBanRequest{Target: "192.0.2.77"}, connect.CodeNotFound, "PLY-006"},
				{"BanService/ClearBans", &pb.ClearBansRequest{}, connect.CodeInvalidArgument, "PLY-003"},
				{"PeerService/AddPeer", &pb.AddPeerRequest{Address: "/ip4/127.0.0.1/tcp/1"}, connect.CodeUnavailable, "PLY-016"},
				{"PeerService/Penalize", &pb.PenalizeRequest{Id: p.follower.node.ID().String(), Points: 101}, connect.CodeInvalidArgument, "PLY-003"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s", Body: "{"}, connect.CodeInvalidArgument, "PLY-002"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s", BodyBase64: make([]byte, 70_000)}, connect.CodeResourceExhausted, "PLY-017"},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s", BodyBase64: make([]byte, 130<<10)}, connect.CodeResourceExhausted, ""},
				{"ChainService/SubmitRecord", &pb.SubmitRecordRequest{Subject: "s", Ack: "maybe"}, connect.CodeInvalidArgument, "PLY-003"},
				{"ChainService/ChangeValidators", &pb.ChangeValidatorsRequest{}, connect.CodeInvalidArgument, "PLY-002"},
				{"DhtService/FindNode", &pb.FindNodeRequest{Peer: "x"}, connect.CodeInvalidArgument, "PLY-002"},
				{"DhtService/PutValue", &pb.PutValueRequest{Key: "a", Value: make([]byte, 3841)}, connect.CodeResourceExhausted, "PLY-008"},
			},
		} {
			for _, c := range calls {
				err := c.ask(ctx, client, h.base+"/parley.v1."+c.name, option, bearer(token))
				if connect.CodeOf(err) != c.code || plyCode(err) != c.ply {
					t.Errorf("%s by %s with %.6q: %v, details %s; want %s %s", c.name, name, token, err, plyCode(err), c.code, c.ply)
				}
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("%s: an error of %d bytes", c.name, len(err.Error()))
				}
			}
		}
	}
	if got := h.do("POST", "/parley.v1.BanService/AddBan", "unix", `{"target":"203.0.113.5","for":"1h","dry_run":true}`); got.status != 200 {
		t.Errorf("by the local socket, without a token: %d %s", got.status, got.body)
	}
	if got := h.do("POST", "/parley.v1.BanService/AddBan", h.token("admin"), `{"target":"203.0.113.5","four":"1h"}`); got.status != 400 || !strings.Contains(string(got.body), "four") {
		t.Errorf("an unknown field: %d %s", got.status, got.body)
	}
	if _, err := h.node.Chain(); err != nil {
		t.Errorf("after all that: %v", err)
	}
	text := string(callOps(h.opsHandler(true), "localhost", "/metrics").body)
	for _, want := range []string{"ChainService/GetBlock\",status=\"404\"", "BanService/AddBan\",status=\"409\"", "ChainService/SubmitRecord\",status=\"401\"", "ChainService/SubmitRecord\",status=\"400\""} {
		if !strings.Contains(text, want) {
			t.Errorf("no counter with %s", want)
		}
	}
}

// fault is a call and how it must fail.
type fault struct {
	name string
	req  any
	code connect.Code
	ply  string
}

func (f fault) ask(ctx context.Context, client *http.Client, url string, options ...connect.ClientOption) error {
	switch r := f.req.(type) {
	case *pb.AddBanRequest:
		return askFor[pb.AddBanRequest](ctx, client, url, r, options)
	case *pb.RemoveBanRequest:
		return askFor[pb.RemoveBanRequest](ctx, client, url, r, options)
	case *pb.ClearBansRequest:
		return askFor[pb.ClearBansRequest](ctx, client, url, r, options)
	case *pb.SubmitRecordRequest:
		return askFor[pb.SubmitRecordRequest](ctx, client, url, r, options)
	case *pb.GetBlockRequest:
		return askFor[pb.GetBlockRequest](ctx, client, url, r, options)
	case *pb.ListPeersRequest:
		return askFor[pb.ListPeersRequest](ctx, client, url, r, options)
	case *pb.ListRecordsRequest:
		return askFor[pb.ListRecordsRequest](ctx, client, url, r, options)
	case *pb.GetRecordRequest:
		return askFor[pb.GetRecordRequest](ctx, client, url, r, options)
	case *pb.GetChainRequest:
		return askFor[pb.GetChainRequest](ctx, client, url, r, options)
	case *pb.AddPeerRequest:
		return askFor[pb.AddPeerRequest](ctx, client, url, r, options)
	case *pb.PenalizeRequest:
		return askFor[pb.PenalizeRequest](ctx, client, url, r, options)
	case *pb.ChangeValidatorsRequest:
		return askFor[pb.ChangeValidatorsRequest](ctx, client, url, r, options)
	case *pb.FindNodeRequest:
		return askFor[pb.FindNodeRequest](ctx, client, url, r, options)
	case *pb.PutValueRequest:
		return askFor[pb.PutValueRequest](ctx, client, url, r, options)
	}
	return fmt.Errorf("%T is not asked for", f.req)
}

func askFor[T any](ctx context.Context, client *http.Client, url string, m *T, options []connect.ClientOption) error {
	_, err := connect.NewClient[T, emptypb.Empty](client, url, options...).CallUnary(ctx, connect.NewRequest(m))
	return err
}

func (p pair) grpcBans(t *testing.T) {
	h := p.h
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bans := parleyv1connect.NewBanServiceClient(client, h.base, connect.WithGRPC(), bearer(h.token("admin")))
	watch, err := bans.WatchBans(ctx, connect.NewRequest(&pb.WatchBansRequest{}))
	if err != nil || !watch.Receive() || watch.Msg().GetHello() == nil {
		t.Fatalf("watch: %v %v", err, watch.Err())
	}
	made, err := bans.AddBan(ctx, connect.NewRequest(&pb.AddBanRequest{Target: "198.51.100.7/24", For: "1h", Note: "scanner"}))
	if err != nil || made.Msg.GetBan().GetTarget() != "198.51.100.0/24" || made.Msg.GetBan().GetUntil() == nil {
		t.Fatalf("ban: %v %v", made, err)
	}
	if !watch.Receive() || watch.Msg().GetEvent().GetType() != "peer.banned" || watch.Msg().GetEvent().GetData().AsMap()["target"] != "198.51.100.0/24" {
		t.Errorf("watched: %v %v", watch.Msg(), watch.Err())
	}
	check, err := bans.CheckBan(ctx, connect.NewRequest(&pb.CheckBanRequest{Target: "198.51.100.9"}))
	if err != nil || !check.Msg.GetBanned() || check.Msg.GetBy().GetNote() != "scanner" {
		t.Errorf("check: %v %v", check, err)
	}
	if _, err := bans.RemoveBan(ctx, connect.NewRequest(&pb.RemoveBanRequest{Target: "198.51.100.0/24"})); err != nil {
		t.Error(err)
	}
	up := bans.ImportBans(ctx)
	for _, part := range []string{"192.0.2.1\n192.0", ".2.2\nnonsense\n"} {
		if err := up.Send(&pb.ImportBansRequest{Data: []byte(part)}); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := up.CloseAndReceive()
	if err != nil || sum.Msg.GetAdded() != 2 || sum.Msg.GetRefusedLines() != 1 || sum.Msg.GetRefused()[0].GetLine() != 3 {
		t.Errorf("import: %v %v", sum, err)
	}
	cleared, err := bans.ClearBans(ctx, connect.NewRequest(&pb.ClearBansRequest{Origin: "import"}))
	if err != nil || cleared.Msg.GetRemoved() != 2 {
		t.Errorf("clear: %v %v", cleared, err)
	}
	long := bans.ImportBans(ctx)
	for range 40 {
		if err := long.Send(&pb.ImportBansRequest{Data: []byte(strings.Repeat(" ", 512<<10))}); err != nil {
			break // it was cut off
		}
	}
	if _, err := long.CloseAndReceive(); connect.CodeOf(err) != connect.CodeResourceExhausted || plyCode(err) != tooLarge.code {
		t.Errorf("a list over the limit: %v", err)
	}
}
