package api

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/ethereum/go-ethereum/rpc"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

// The log is a stream like others: what was before, then what comes; a bundle
// has it too, and no secret.
func TestLogAndBundle(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the leader", func() bool {
		return bytes.Contains(h.do("GET", "/api/v1/chain/validators", "", "").body, []byte(`"leader":true`)) && h.do("GET", "/api/v1/dht/table", "", "").status == 200
	})
	admin := h.token("admin")
	slog.New(h.lines.Handler()).With("room", "test").Info("first", "n", 1)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.base+"/api/v1/logs?last=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "text/event-stream" {
		t.Fatalf("%d, %s", res.StatusCode, got)
	}
	lines := bufio.NewScanner(res.Body)
	next := func() string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return data
			}
		}
		return fmt.Sprint("the stream ended: ", lines.Err())
	}
	if got := next(); !strings.Contains(got, `"msg":"first","room":"test","n":1`) {
		t.Errorf("the newest line is %s", got)
	}
	slog.New(h.lines.Handler()).Warn("second")
	if got := next(); !strings.Contains(got, `"level":"WARN","msg":"second"`) {
		t.Errorf("the next line is %s", got)
	}

	for _, bad := range []string{"x", "-1", "2001", "99999999999999999999"} {
		if got := h.do("GET", "/api/v1/logs?last="+bad, admin, ""); got.status != 400 {
			t.Errorf("last=%s: %d", bad, got.status)
		}
	}
	for _, bad := range []string{`{}`, `{"default":"loud"}`, `{"default":"info","a=b":"debug"}`, `{"p2p":"debug"}`} {
		if got := h.do("PUT", "/api/v1/log-levels", admin, bad); got.status != 422 || h.lines.Level() != "info" {
			t.Errorf("%s: %d, level %s", bad, got.status, h.lines.Level())
		}
	}

	got := h.do("GET", "/api/v1/debug/bundle", admin, "")
	z, err := zip.NewReader(bytes.NewReader(got.body), int64(len(got.body)))
	if err != nil || got.header.Get("Content-Type") != bundleType {
		t.Fatalf("%d %s: %v", got.status, got.header.Get("Content-Type"), err)
	}
	files := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(b)
		for _, secret := range h.live.Load().secrets {
			if bytes.Contains(b, secret) || bytes.Contains(b, fmt.Appendf(nil, "%x", secret)) {
				t.Errorf("%s holds the secret of tokens", f.Name)
			}
		}
	}
	for _, name := range bundled {
		if files["api/v1/"+name+".json"] == "" {
			t.Errorf("no answer to %s: %s", name, files["api/v1/"+name+".error"])
		}
	}
	for name, want := range map[string]string{
		"metrics.txt": "parley_build_info", "goroutines.txt": "goroutine ", "log.jsonl": `"msg":"second"`, "api/v1/chain/validators.json": `"leader":true`,
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %s: %.300s", name, want, files[name])
		}
	}
}

// What is of the log alone is refused to who may not read it: it would wait for
// ever.
func TestLogTypesAreDenied(t *testing.T) {
	h := start(t, nil)
	for _, c := range []struct {
		path, scope string
		status      int
	}{
		{"events?types=log.*", "", 401}, {"events?types=log.*,log.written", "read", 403}, {"events?types=log.writte[n]", "read", 403},
	} {
		token := ""
		if c.scope != "" {
			token = h.token(c.scope)
		}
		got := h.do("GET", prefix+c.path, token, "")
		if got.status != c.status || !strings.Contains(string(got.body), `"detail":"types=log.`) || !strings.Contains(string(got.body), "scope admin") {
			t.Errorf("%s %s: %d %s", c.path, c.scope, got.status, got.body)
		}
		if challenge := got.header.Get("WWW-Authenticate"); (challenge != "") != (c.status == 401) {
			t.Errorf("%s: WWW-Authenticate %q", c.path, challenge)
		}
	}
	s := h.dial(t, "?types=log.*,config.*")
	if e := s.until("hello"); !strings.Contains(string(e.Data), `"denied_types":["log.*"]`) {
		t.Errorf("%.300s", e.Data)
	}
	s.say(`{"subscribe":["log.written","config.*"]}`)
	if e := s.next(); e.Type != "denied_types" || string(e.Data) != `{"types":["log.written"]}` {
		t.Errorf("%s %s", e.Type, e.Data)
	}
	client, err := rpc.Dial(strings.Replace(h.base, "http", "ws", 1) + "/rpc")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Subscribe(t.Context(), "parley", make(chan any), "events", "log.*,config.*"); !strings.Contains(fmt.Sprint(err), "unauthorized") {
		t.Errorf("%v", err)
	}
}

// The log is told as events to admins who ask, and to nobody else.
func TestLogWritten(t *testing.T) {
	h := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch := func(scope string) *connect.ServerStreamForClient[pb.Watched] {
		t.Helper()
		st, err := parleyv1connect.NewNodeServiceClient(http.DefaultClient, h.base, bearer(h.token(scope))).WatchEvents(ctx,
			connect.NewRequest(&pb.WatchEventsRequest{Types: []string{"log.*", "config.*"}}))
		denied := map[string][]string{"read": {"log.*"}}[scope]
		if err != nil || !st.Receive() || !slices.Equal(st.Msg().GetHello().GetDeniedTypes(), denied) {
			t.Fatalf("no hello: %v %v", err, st)
		}
		return st
	}
	admin, reader := watch("admin"), watch("read")
	defer admin.Close()
	defer reader.Close()
	log := slog.New(h.lines.Handler()).With("room", "test")
	stop := background(t, func(ctx context.Context) error { // until it is looked for who follows
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			log.Warn("look here", "n", 7)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	for {
		if !admin.Receive() {
			t.Fatal(admin.Err())
		}
		if e := admin.Msg().GetEvent(); e.GetType() == "log.written" {
			data := e.GetData().AsMap()
			if data["level"] != "warn" || data["room"] != "test" || data["msg"] != "look here" || !reflect.DeepEqual(data["attrs"], map[string]any{"n": 7.0}) {
				t.Errorf("%v", data)
			}
			break
		}
	}
	stop()
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 {
		t.Fatal(got.status)
	}
	if !reader.Receive() || reader.Msg().GetEvent().GetType() != "config.reloaded" { // what came before it was not told
		t.Errorf("a reader was told %v", reader.Msg())
	}
	if f, err := newFilter("*"); err != nil || f.match("log.written") || !f.match("block.stored") {
		t.Error("who is no admin is told of the log")
	}
	if (config.Sink{Types: []string{"*"}}).Wants("log.written") {
		t.Error("a sink takes lines of the log")
	}
}
