package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

// grpcClasses is what each remote call asks of its caller, by INTERFACES 5.
var grpcClasses = map[access]string{
	open: `grpc.health.v1.Health: Check Watch
		grpc.reflection.v1.ServerReflection: ServerReflectionInfo
		grpc.reflection.v1alpha.ServerReflection: ServerReflectionInfo`,
	read: `parley.v1.NodeService: GetStatus GetNode GetHealth WatchEvents
		parley.v1.PeerService: ListPeers GetPeer CountPeers ListStaticPeers GetHistory GetTopology WatchPeers
		parley.v1.BanService: ListBans CheckBan WatchBans
		parley.v1.DhtService: GetDht GetTable GetValue
		parley.v1.GossipService: ListTopics GetMesh GetTrace Tail
		parley.v1.ChainService: GetChain GetHead ListHeads GetBlock ListBlocks ListValidators GetRecord ListRecords GetProof WatchBlocks
		p2p_api.PeerService: GetPeers IsBanned ListBanned`,
	anybody: `parley.v1.ChainService: SubmitRecord`,
	admin: `parley.v1.NodeService: ReloadConfig GetConfig PatchConfig SetLogLevel
		parley.v1.PeerService: AddPeer RemovePeer Connect Disconnect SetTrusted Penalize
		parley.v1.BanService: AddBan RemoveBan ClearBans ImportBans
		parley.v1.DhtService: FindNode FindProviders Provide PutValue
		parley.v1.ChainService: ChangeValidators
		parley.v1.GossipService: Publish
		p2p_api.PeerService: BanPeer UnbanPeer ClearBanned AddBanScore ConnectPeer DisconnectPeer`,
}

func init() {
	for a, text := range grpcClasses {
		for line := range strings.Lines(text) {
			service, names, _ := strings.Cut(strings.TrimSpace(line), ": ")
			for name := range strings.FieldsSeq(names) {
				classes["POST /"+service+"/"+name] = a
			}
		}
	}
}

// TestGRPCIsWhole looks whether every call of our services is served, and pins
// the list of them.
func TestGRPCIsWhole(t *testing.T) {
	s := idleServer(t, nil)
	names := map[access]string{open: "open", read: "read", anybody: "token", admin: "admin"}
	var b strings.Builder
	for _, service := range slices.Sorted(slices.Values(s.services)) {
		if strings.HasPrefix(service, "grpc.") {
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			rt := s.routes[fmt.Sprintf("POST /%s/%s", service, m.Name())]
			if rt == nil {
				t.Errorf("%s is not served", m.FullName())
				continue
			}
			if streams := m.IsStreamingClient() || m.IsStreamingServer(); rt.stream != streams {
				t.Errorf("%s: a stream = %v, its route says %v", m.FullName(), streams, rt.stream)
			}
			mark := func(stream bool) string {
				if stream {
					return "stream "
				}
				return ""
			}
			fmt.Fprintf(&b, "%s(%s%s) %s%s  %s\n", m.FullName(), mark(m.IsStreamingClient()), m.Input().FullName(),
				mark(m.IsStreamingServer()), m.Output().FullName(), names[rt.access])
		}
	}
	golden(t, "grpc.golden", []byte(b.String()))
}

// h2c speaks HTTP/2 without TLS, as gRPC clients do.
func h2c(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &p, DialContext: dial}}
}

// bearer sends a token with each call.
func bearer(token string) connect.ClientOption {
	return connect.WithInterceptors(tokenSender(token))
}

type tokenSender string

func (t tokenSender) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if t != "" {
			r.Header().Set("Authorization", "Bearer "+string(t))
		}
		return next(ctx, r)
	}
}

func (t tokenSender) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if t != "" {
			conn.RequestHeader().Set("Authorization", "Bearer "+string(t))
		}
		return conn
	}
}

func (t tokenSender) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// plyCode is the code in an error's ErrorInfo.
func plyCode(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*errdetails.ErrorInfo); ok {
				return info.Reason
			}
		}
	}
	return ""
}

func TestGRPCStandard(t *testing.T) {
	h := start(t, nil)
	h.waitFor("readiness", func() bool { return h.node.Health().Status == "ready" })
	client := h2c(nil)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for name, option := range map[string]connect.ClientOption{"gRPC": connect.WithGRPC(), "gRPC-Web": connect.WithGRPCWeb(), "Connect": connect.WithProtoJSON()} {
		c := grpchealth.NewClient(client, h.base, option)
		got, err := c.Check(ctx, &grpchealth.CheckRequest{})
		if err != nil || got.Status != grpchealth.StatusServing {
			t.Errorf("%s: health %v %v", name, got, err)
		}
		if _, err := c.Check(ctx, &grpchealth.CheckRequest{Service: "x.Y"}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s: health of an unknown service: %v", name, err)
		}
	}
	watch, stop := context.WithCancel(ctx)
	e := <-grpchealth.NewClient(client, h.base, connect.WithGRPC()).Watch(watch, &grpchealth.CheckRequest{})
	if e.Err != nil || e.Response.Status != grpchealth.StatusServing {
		t.Errorf("watched: %+v", e)
	}
	stop()
	stream := grpcreflect.NewClient(client, h.base, connect.WithGRPC()).NewStream(ctx)
	names, err := stream.ListServices()
	if err != nil || len(names) != len(h.services) {
		t.Errorf("reflection lists %v, want %v: %v", names, h.services, err)
	}
	if _, err := stream.Close(); err != nil {
		t.Error(err)
	}
	local := h2c(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.unix)
	})
	defer local.CloseIdleConnections()
	admin := parleyv1connect.NewBanServiceClient(local, "http://parley", connect.WithGRPC())
	if _, err := admin.AddBan(ctx, connect.NewRequest(&pb.AddBanRequest{Target: "192.0.2.1", DryRun: true})); err != nil {
		t.Errorf("by the local socket, without a token: %v", err)
	}
	if got := h.do("POST", "/grpc.health.v1.Health/Check", "", "{}"); got.status != 200 || !bytes.Contains(got.body, []byte("SERVING")) {
		t.Errorf("curl: %d %s", got.status, got.body)
	}
}

// TestGRPCStop ends the node while a client watches: it must not wait for it.
func TestGRPCStop(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	client := h2c(nil)
	defer client.CloseIdleConnections()
	events := grpchealth.NewClient(client, h.base, connect.WithGRPC()).Watch(t.Context(), &grpchealth.CheckRequest{})
	stream := grpcreflect.NewClient(client, h.base, connect.WithGRPC()).NewStream(t.Context())
	if _, err := stream.ListServices(); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Err != nil {
		t.Fatal(e.Err)
	}
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > drainTimeout/2 {
		t.Errorf("the streams held the node up for %s", took)
	}
	var last error
	for e := range events {
		last = e.Err
	}
	if connect.CodeOf(last) != connect.CodeUnavailable || plyCode(last) != notReady.code {
		t.Errorf("the watch ended with %v", last)
	}
	if _, err := stream.ListServices(); err == nil {
		t.Error("reflection goes on after the end")
	}
	_, _ = stream.Close()
}

// TestGRPCRefusals asks, as every kind of client, for what the guard refuses
// before a service is met.
func TestGRPCRefusals(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.Rate = 1000 })
	for _, c := range []struct {
		path, mediaType, body string
		status                int
		grpc                  string // status in the header or trailer
		code                  string // of Connect JSON
	}{
		{"/parley.v1.NoService/Do", "application/json", "{}", 501, "", "unimplemented"},
		{"/grpc.health.v1.Health/Do", "application/json", "{}", 501, "", "unimplemented"},
		{"/grpc.health.v1.Health/Do", "application/grpc", "", 200, "12", ""},
		{"/grpc.health.v1.Health/Do", "application/grpc-web+proto", "", 200, "12", ""},
		{"/no/such/path", "application/grpc", "", 200, "12", ""},
		{"/grpc.health.v1.Health/Check", "application/json", "{", 400, "", "invalid_argument"},
		{"/grpc.health.v1.Health/Check", "application/json", `{"colour":1}`, 400, "", "invalid_argument"},
		{"/grpc.health.v1.Health/Check", "application/json", "", 400, "", "invalid_argument"},
		{"/grpc.health.v1.Health/Check", "application/json", `{"service":"` + strings.Repeat("x", 5000) + `"}`, 429, "", "resource_exhausted"},
		{"/grpc.health.v1.Health/Check", "application/json", strings.Repeat("x", 10000), 429, "", "resource_exhausted"},
		{"/grpc.health.v1.Health/Check", "application/proto", "\xff\xff\xff\xff\xff\xff", 400, "", "invalid_argument"},
		{"/grpc.health.v1.Health/Check", "application/grpc", "\x00\x00\x00\x00\x02\xff\xff", 200, "3", ""},
		{"/grpc.health.v1.Health/Check", "application/grpc", "\x00\xff\xff\xff\xff\xff", 200, "8", ""},
		{"/grpc.health.v1.Health/Check", "application/grpc", "\x00\x00", 200, "13", ""},
		{"/grpc.health.v1.Health/Check", "text/plain", "{}", 415, "", ""},
		{"/grpc.health.v1.Health/Check", "application/x-www-form-urlencoded", "a=b", 415, "", ""},
	} {
		got := call(s, parley.Listener{}, stranger, "POST", c.path, c.body, "Content-Type", c.mediaType)
		grpc := got.header.Get("Grpc-Status") + got.header.Get(http.TrailerPrefix+"Grpc-Status")
		if got.status != c.status || grpc != c.grpc || c.code != "" && got.json(t)["code"] != c.code {
			t.Errorf("%s as %s, %.30q: %d, gRPC status %q, %.300s; want %d %q %q", c.path, c.mediaType, c.body, got.status, grpc, got.body, c.status, c.grpc, c.code)
		}
		if len(got.body) > 2000 {
			t.Errorf("%s: an error of %d bytes", c.path, len(got.body))
		}
	}
	shut := idleServer(t, func(c *config.Config) { c.API.Rate = 1 })
	for range 10 {
		call(shut, parley.Listener{}, stranger, "GET", "/api/v1/version", "")
	}
	got := call(shut, parley.Listener{}, stranger, "POST", "/grpc.health.v1.Health/Check", "{}", "Content-Type", "application/json")
	if got.status != 429 || got.header.Get("Retry-After") != "1" || !bytes.Contains(got.body, []byte("google.rpc.ErrorInfo")) {
		t.Errorf("over the rate: %d %v %s", got.status, got.header, got.body)
	}
	if got := call(shut, parley.Listener{Loopback: true}, "127.0.0.1:1", "POST", "/grpc.health.v1.Health/Check", "{}", "Content-Type", "application/json", "Host", "evil.example"); got.status != 403 {
		t.Errorf("foreign Host: %d %s", got.status, got.body)
	}
}
