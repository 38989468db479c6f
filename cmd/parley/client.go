package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/parley-p2p/parley"
)

const (
	defaultNode = "http://127.0.0.1:8080"
	apiPrefix   = "/api/v1/"
	maxAnswer   = 256 << 20 // bytes; a dump is copied, not read
	maxToken    = 16 << 10
)

// client asks one node.
type client struct {
	name  string // as the user gave it
	base  string // scheme://host
	token string
	http  *http.Client
}

// named is the node that the user names, "" where he names none. What stands on
// the command line is meant more than what a shell once exported: with
// --data-dir or --config the node is that of the directory.
func (g *globals) named() string {
	if g.node == "" && g.dataDir == "" && g.config == "" {
		return cmp.Or(os.Getenv("PARLEY_NODE"), teranodeNode())
	}
	return g.node
}

// teranodeNode is where Teranode's settings say that the node is, "" = they do
// not.
func teranodeNode() string {
	for _, name := range []string{"p2p_httpAddress", "p2p_grpcAddress"} { // one port serves both
		host, port, err := net.SplitHostPort(os.Getenv(name))
		if err == nil {
			return "http://" + net.JoinHostPort(cmp.Or(host, "localhost"), port)
		}
	}
	return ""
}

// client finds the node: --node, the socket of --data-dir or --config,
// PARLEY_NODE or Teranode's settings, the socket of the data directory, or the default address.
func (g *globals) client() (*client, error) {
	if g.bundle != "" {
		return bundleClient(g.bundle)
	}
	name := g.named()
	if name == "" {
		var err error
		if name, err = g.localNode(); err != nil {
			return nil, err
		}
	}
	if host, port, err := net.SplitHostPort(name); err == nil && host != "unix" && !strings.Contains(port, "/") { // as PEERS takes it
		name = "http://" + net.JoinHostPort(cmp.Or(host, "localhost"), port)
	}
	c := &client{name: name, base: strings.TrimSuffix(name, "/"), http: &http.Client{}}
	if path, ok := strings.CutPrefix(name, "unix:"); ok {
		c.base = "http://localhost"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}
	} else if u, err := url.Parse(name); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fail(exitUsage, "node %q: want host:port, http://host:port, https://host:port or unix:PATH", name)
	}
	if g.verbose {
		g.say("asking %s", name)
	}
	if g.tokenFile != "" {
		f, err := os.Open(g.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxToken))
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		c.token = strings.TrimSpace(string(b))
	}
	return c, nil
}

// localNode is the socket of this machine's node where there is one. Who names
// a data directory or a configuration means that node and no other; for others
// a broken configuration is the affair of the commands that need one.
func (g *globals) localNode() (string, error) {
	named := g.dataDir != "" || g.config != "" || os.Getenv("PARLEY_DATA_DIR") != ""
	cfg, err := g.load()
	if err != nil {
		if named {
			return "", err
		}
		return defaultNode, nil
	}
	path := parley.SocketPath(cfg.DataDir)
	switch _, err = os.Stat(path); {
	case err == nil:
		return "unix:" + path, nil
	case !named:
		return defaultNode, nil
	case errors.Is(err, fs.ErrPermission):
		return "", fail(exitRefused, "the node on %s: %w: ask as the user that runs it, or ask its API with --node", cfg.DataDir, err)
	}
	return "", fail(exitUnreachable, "no node runs on %s: start one with parley run --data-dir %s, or name another with --node", cfg.DataDir, cfg.DataDir)
}

// request sends one request. An answer of 400 and above is an *apiError; else
// the caller MUST close the body.
func (c *client) request(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	if !strings.HasPrefix(path, "/") {
		path = apiPrefix + path
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fail(exitUsage, "%w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		defer res.Body.Close()
		return res, refusal(res)
	}
	return res, nil
}

// unreachable tells a node that is not there from one that is slow.
func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		if wrapped.Timeout() {
			return fail(exitTimeout, "node %s did not answer in time: give it longer with --timeout 60s", c.name)
		}
		err = wrapped.Err
	}
	mend := "start one with parley run or parley devnet, or name another with --node"
	if _, bad := errors.AsType[*tls.CertificateVerificationError](err); bad {
		mend = "name the file of its certificate, or of the CA's: SSL_CERT_FILE=FILE"
	} else if errors.Is(err, http.ErrSchemeMismatch) {
		mend = "write http:// for https://"
	}
	return fail(exitUnreachable, "node %s does not answer: %w: %s", c.name, err, mend)
}

func refusal(res *http.Response) error {
	e := &apiError{}
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || json.Unmarshal(b, e) != nil || e.Title == "" && e.Detail == "" {
		*e = apiError{Detail: strings.ToLower(http.StatusText(res.StatusCode))}
		switch text := strings.TrimSpace(string(b)); {
		case !json.Valid(b) && res.Request != nil:
			e.Detail = fmt.Sprintf("%s answers %q, which is nothing that a parley node's API says: name one with --node", res.Request.URL.Host, res.Status)
		case text != "" && len(text) < 300:
			e.Detail += ": " + text
		}
	}
	e.Status, e.asked = res.StatusCode, res.Request != nil && res.Request.Method == http.MethodGet
	return e
}

// get reads the whole answer of a GET.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, "", nil)
}

func (c *client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	res, err := c.request(ctx, method, path, contentType, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return b, nil
}

// query adds parameters, of which those without a value are left out.
func query(path string, pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}
