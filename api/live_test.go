package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

// What the API reads of the configuration acts on the request after the reload.
func TestReloadActsAtOnce(t *testing.T) {
	c := labConfig(t)
	h, next := reloader(t, c)
	reload := func(want string) {
		t.Helper()
		next.Store(&config.Loaded{Config: c})
		got := h.do("POST", "/api/v1/config/reload", "unix", "")
		if text := strings.TrimSpace(string(got.body)); got.status != 200 || text != `{"changed":[`+want+`],"needs_restart":[]}` {
			t.Errorf("reload: %d %s, want %s", got.status, text, want)
		}
	}
	status := func(token string, header ...string) int {
		return h.do("GET", "/api/v1/status", token, "", header...).status
	}
	old, oldAdmin := h.token("read"), h.token("admin")

	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	genesis, _ := h.do("GET", "/api/v1/chain/blocks/0", "", "").json(t)["hash"].(string)
	cache := func(want string) {
		t.Helper()
		if got := h.do("GET", "/api/v1/chain/blocks/"+genesis, old, "").header.Get("Cache-Control"); got != want {
			t.Errorf("who may keep a block: %q, want %q", got, want)
		}
	}
	cache("public, no-cache")
	c.API.PublicRead = false
	reload(`"api.public_read"`)
	cache("private, no-cache")
	if got := status(""); got != 401 {
		t.Errorf("without a token: %d", got)
	}
	if got := status(old); got != 200 {
		t.Errorf("with one: %d", got)
	}
	c.API.PublicRead = true
	reload(`"api.public_read"`)
	if got := status(""); got != 200 {
		t.Errorf("reading is public again: %d", got)
	}

	if got := status("", "Host", "node.example"); got != 200 { // a client of Go's library sets Request.Host alone
		t.Errorf("the header is not what names the host: %d", got)
	}
	byName := func() int {
		r := call(h.Server, parley.Listener{Loopback: true}, "127.0.0.1:1", "GET", "/api/v1/status", "", "Host", "node.example")
		return r.status
	}
	if got := byName(); got != 403 {
		t.Errorf("another host: %d", got)
	}
	c.API.AllowedHosts = []string{"node.example"}
	reload(`"api.allowed_hosts"`)
	if got := byName(); got != 200 {
		t.Errorf("an allowed host: %d", got)
	}

	many := func() (refused int) {
		for range 10 {
			if call(h.Server, parley.Listener{}, stranger, "GET", "/api/v1/version", "").status == 429 {
				refused++
			}
		}
		return refused
	}
	if n := many(); n != 0 {
		t.Errorf("%d of ten refused", n)
	}
	c.API.Rate = 1
	reload(`"api.rate"`)
	if n := many(); n < 7 {
		t.Errorf("%d of ten refused at one a second", n)
	}
	c.API.Rate = 50
	reload(`"api.rate"`)

	// Other secrets: what was signed with one that is gone does not hold.
	path := filepath.Join(c.DataDir, c.API.JWTSecretFile)
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Repeat("5e", 32) + "\n"
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(second+string(first), 0o600)
	reload(`"api.jwt_secret_file"`)
	reload(``)
	fresh := h.token("read")
	if a, b := status(old), status(fresh); a != 200 || b != 200 {
		t.Errorf("two secrets: the old token %d, the new one %d", a, b)
	}
	// A connection of each, which goes on.
	conns := map[string]context.Context{}
	for name, token := range map[string]string{"old": oldAdmin, "fresh": h.token("admin")} {
		r := httptest.NewRequest("GET", "/rpc", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		c, p := h.authenticate(r, false)
		if p != nil {
			t.Fatal(p)
		}
		conns[name] = context.WithValue(t.Context(), callerKey{}, c)
	}
	write(second, 0o600)
	if got := status(old); got != 200 {
		t.Errorf("before the reload: %d", got)
	}
	reload(`"api.jwt_secret_file"`)
	if a, b := status(old), status(fresh); a != 401 || b != 200 {
		t.Errorf("one secret: the old token %d, the new one %d", a, b)
	}
	if a, b := h.rpcPermit(conns["old"], "admin_addPeer"), h.rpcPermit(conns["fresh"], "admin_addPeer"); a == nil || b != nil {
		t.Errorf("connections that were there: the old token's %v, the new one's %v", a, b)
	}
	write(string(first), 0o644)
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 422 || !strings.Contains(string(got.body), "chmod 600") {
		t.Errorf("a secret that others may read: %d %s", got.status, got.body)
	}
	if got := status(fresh); got != 200 {
		t.Errorf("a refused reload took the secret: %d", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 422 || !strings.Contains(string(got.body), "api.jwt_secret_file") {
		t.Errorf("no secret: %d %s", got.status, got.body)
	}
}

func TestReloadTurnsProfilesOn(t *testing.T) {
	c := labConfig(t)
	c.Ops.Listen = "127.0.0.1:0"
	h, next := reloader(t, c)
	index := func() int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.ops.Addr().String()+"/debug/pprof/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	for _, on := range []bool{false, true, false} {
		c.Ops.PProf = on
		next.Store(&config.Loaded{Config: c})
		if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if got := index(); (got == 200) != on {
			t.Errorf("ops.pprof = %v: %d", on, got)
		}
	}
}

// patched is a house whose configuration is a file, as that of a process.
func patched(t *testing.T, more string, environ ...string) *house {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "parley.toml")
	text := fmt.Sprintf("data_dir = %q\nprofile = \"devnet\"\n[node]\nname = \"n1\"\n[api]\nlisten = [\"127.0.0.1:0\"]\n[ops]\nlisten = \"\"\n[p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n%s", filepath.Join(dir, "data"), more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(settings []byte) (*config.Loaded, error) {
		return config.Load(config.LoadArgs{File: file, Environ: environ, Settings: settings})
	}
	l, err := load(nil)
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, l.Config, load)
}

// A patch acts at once, is kept, and a later reload does not undo it.
func TestPatchConfig(t *testing.T) {
	h := patched(t, "", "PARLEY_API__RATE=70/s")
	patch := func(token, body string, status int, want string) {
		t.Helper()
		got := h.do("PATCH", "/api/v1/config", token, body)
		if text := strings.TrimSpace(string(got.body)); got.status != status || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s\nwant %d %s", body, got.status, text, status, want)
		}
	}
	kept := func() string {
		b, err := os.ReadFile(config.SettingsPath(h.cfg.DataDir))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	status := func() int { return h.do("GET", "/api/v1/status", "", "").status }
	admin := h.token("admin")
	patch(admin, `{"api":{"public_read":false,"cors":["https://a.example"]}}`, 200, `{"changed":["api.cors","api.public_read"],"needs_restart":[]}`)
	if got := status(); got != 401 {
		t.Errorf("after the patch: %d", got)
	}
	if got := kept(); !strings.Contains(got, "public_read = false") || !strings.Contains(got, "https://a.example") || !strings.HasPrefix(got, "# What was changed") {
		t.Errorf("kept is %q", got)
	}
	if got := h.do("POST", "/api/v1/config/reload", admin, ""); got.status != 200 || !strings.Contains(string(got.body), `"changed":[]`) || status() != 401 {
		t.Errorf("a reload undid the patch: %d %s, %d", got.status, got.body, status())
	}
	before := kept()
	// What cannot be changes nothing.
	patch(admin, `{"api":{"public_read":true,"rate":"10/s"}}`, 409, `api.rate is set by env PARLEY_API__RATE`)
	patch(admin, `{"api":{"public_read":true,"cors":["nonsense"]}}`, 422, `settings.toml`)
	patch(admin, `{"api":{"public_read":"yes"}}`, 422, `true or false`)
	patch(admin, `{"api":{"public_read":true},"p2p":{"port":1,"prot":2}}`, 422, `did you mean p2p.port?`)
	patch(admin, `{"sink":[{"kind":"nats","url":"nats://127.0.0.1"}]}`, 403, `local socket`)
	patch("unix", `{"api":{"jwt_secret":"x"}}`, 422, `by file`)
	patch(admin, `{"api":7}`, 422, `is a section`)
	if kept() != before || status() != 401 {
		t.Errorf("a refused patch was kept: %s", kept())
	}
	// null takes back.
	patch(admin, `{"api":{"public_read":null}}`, 200, `{"changed":["api.public_read"]`)
	if got := status(); got != 200 || strings.Contains(kept(), "public_read") {
		t.Errorf("taken back: %d, %s", got, kept())
	}
	patch(admin, `{"api":null}`, 200, `{"changed":["api.cors"]`)
	if got := kept(); got != "" {
		t.Errorf("all is taken back: %q", got)
	}
	// The same by a remote call; the local socket may name files.
	c := parleyv1connect.NewNodeServiceClient(http.DefaultClient, h.base, bearer(admin))
	value, err := structpb.NewStruct(map[string]any{"api": map[string]any{"allowed_hosts": []any{"x.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.PatchConfig(t.Context(), connect.NewRequest(&pb.PatchConfigRequest{Patch: value}))
	if err != nil || len(r.Msg.GetChanged()) != 1 || !strings.Contains(kept(), "x.example") {
		t.Errorf("%v %v", r, err)
	}
	all, err := c.GetConfig(t.Context(), connect.NewRequest(&pb.GetConfigRequest{}))
	if err != nil || len(all.Msg.GetItems()) != len(config.Keys()) {
		t.Errorf("%v", err)
	}
	levels, err := c.SetLogLevel(t.Context(), connect.NewRequest(&pb.SetLogLevelRequest{Levels: map[string]string{"default": "warn", "p2p": "error"}}))
	if err != nil || levels.Msg.GetLevels()["p2p"] != "error" || h.lines.Level() != "warn,p2p=error" {
		t.Errorf("%v %v %s", levels, err, h.lines.Level())
	}
	if _, err := c.SetLogLevel(t.Context(), connect.NewRequest(&pb.SetLogLevelRequest{Levels: map[string]string{"default": "loud"}})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a level that there is not: %v", err)
	}
	patch("unix", `{"api":{"jwt_secret_file":"other.hex"}}`, 422, "other.hex")
	if err := os.WriteFile(filepath.Join(h.cfg.DataDir, "other.hex"), []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	patch("unix", `{"api":{"jwt_secret_file":"other.hex"}}`, 200, `{"changed":["api.jwt_secret_file"]`)
	patch(admin, `{}`, 401, "PLY-004")
}
