package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// page is what a web page does with a node: it hears of its own record by all
// that a browser has, and tells how it went.
const page = `<!doctype html><title>a page</title><script>
const node = 'NODE', token = 'TOKEN', out = {};
const within = (what, p) => Promise.race([p, new Promise((_, no) => setTimeout(() => no(new Error('nothing within 15 s')), 15000))])
	.then(v => { out[what] = v }, e => { out[what] = 'failed: ' + e.message });
const post = (path, body) => fetch('http://' + node + path, {method: 'POST', body, headers: {'content-type': 'application/json', authorization: 'Bearer ' + token}});
(async () => {
	const ready = [], committed = [];
	ready.push(within('WebSocket', new Promise((yes, no) => {
		const ws = new WebSocket('ws://' + node + '/api/v1/ws?types=record.*', 'parley.v1');
		ws.onerror = () => no(new Error('refused'));
		ws.onmessage = m => {
			const e = JSON.parse(m.data);
			if (e.type == 'hello') ws.send('{"ping":7}');
			if (e.type == 'pong') yes(ws.protocol + ' ' + e.data.ping);
			if (e.type == 'record.committed') { committed.push('WebSocket ' + e.data.subject); ws.close(); }
		};
	})));
	ready.push(within('Teranode', new Promise((yes, no) => {
		const ws = new WebSocket('ws://' + node + '/p2p-ws');
		ws.onerror = () => no(new Error('refused'));
		ws.onmessage = m => { yes(JSON.parse(m.data).type); ws.close(); };
	})));
	ready.push(within('JSON-RPC', new Promise((yes, no) => {
		const ws = new WebSocket('ws://' + node + '/rpc');
		ws.onerror = () => no(new Error('refused'));
		ws.onopen = () => ws.send('{"jsonrpc":"2.0","id":1,"method":"net_peerCount"}');
		ws.onmessage = m => { yes(JSON.parse(m.data).result); ws.close(); };
	})));
	ready.push(within('EventSource', new Promise((yes, no) => {
		const es = new EventSource('http://' + node + '/api/v1/events?types=record.*');
		es.onerror = () => { es.close(); no(new Error('refused')); };
		es.addEventListener('hello', () => yes('hello'));
		es.addEventListener('record.committed', m => { committed.push('EventSource ' + JSON.parse(m.data).data.subject); es.close(); });
	})));
	ready.push(within('fetch', fetch('http://' + node + '/api/v1/status').then(r => r.json()).then(s => s.name)));
	ready.push(within('Connect', post('/parley.v1.PeerService/CountPeers', '{}').then(r => r.status)));
	await Promise.all(ready);
	await within('record', post('/api/v1/records', '{"subject":"from a page","body":1}').then(r => r.status));
	for (let i = 0; i < 100 && committed.length < 2 && out.record == 200; i++) await new Promise(r => setTimeout(r, 50));
	out.committed = committed.sort().join(', ');
	await fetch('/result', {method: 'POST', body: JSON.stringify(out)});
})();
</script>`

// browser finds a Chromium, or says what to install.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	lacking(t, "there is no Chromium: run scripts/setup, or install the package chromium-headless-shell")
	return ""
}

// visit opens a URL in a browser of its own until the context ends; it returns
// what the page shows, if the browser ends by itself.
func visit(ctx context.Context, t *testing.T, url string, more ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, browser(t), append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir=" + t.TempDir(), "--host-resolver-rules=MAP evil.example 127.0.0.1"}, append(more, url)...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children, which end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	return string(out), err
}

// TestBrowser has a page of an origin that api.cors names, and one of another,
// use the node as a browser lets them.
func TestBrowser(t *testing.T) {
	browser(t)
	results := make(chan map[string]any, 1)
	var text string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/result" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, text)
			return
		}
		var out map[string]any
		if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
			t.Error(err)
		}
		results <- out
	})
	friend, stranger := httptest.NewServer(h), httptest.NewServer(h)
	defer friend.Close()
	defer stranger.Close()
	n := startFleetNode(t, "n", "api.cors="+friend.URL, "node.name=n")
	token, err := parleyCommand(t.Context(), "token", "create", "--scope", "admin", "--data-dir", n.dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.NewReplacer("NODE", n.addr, "TOKEN", strings.TrimSpace(string(token))).Replace(page)
	for _, c := range []struct {
		name, url string
		want      map[string]any
	}{
		{"of a named origin", friend.URL, map[string]any{
			"WebSocket": "parley.v1 7", "Teranode": "node_status", "JSON-RPC": "0x0", "EventSource": "hello", "fetch": "n", "Connect": 200.0, "record": 200.0,
			"committed": "EventSource from a page, WebSocket from a page",
		}},
		{"of another one", stranger.URL, map[string]any{
			"WebSocket": "failed: refused", "Teranode": "failed: refused", "JSON-RPC": "failed: refused", "EventSource": "failed: refused",
			"fetch": "failed: Failed to fetch", "Connect": "failed: Failed to fetch", "record": "failed: Failed to fetch", "committed": "",
		}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = visit(ctx, t, c.url, "--remote-debugging-port=0") // it stays until it is ended
		}()
		select {
		case got := <-results:
			for what, want := range c.want {
				if got[what] != want {
					t.Errorf("a page %s: %s is %v, want %v", c.name, what, got[what], want)
				}
			}
		case <-ctx.Done():
			t.Errorf("a page %s did not come to its end", c.name)
		}
		cancel()
		<-gone
	}
	// a name of a stranger that leads to this machine
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, port, _ := strings.Cut(n.addr, ":")
	shown, err := visit(ctx, t, "http://evil.example:"+port+"/api/v1/status", "--dump-dom")
	if err != nil || !strings.Contains(shown, "PLY-005") || strings.Contains(shown, "peer_id") {
		t.Errorf("by a name that was rebound: %v %s", err, shown)
	}
}
