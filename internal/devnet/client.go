package devnet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/parley-p2p/parley"
)

const (
	maxAnswer  = 16 << 20 // bytes; the records of a block as JSON
	maxRefusal = 64 << 10
)

// Client asks one node at its local socket, where no token is needed and where
// it is no matter in which network namespace the node lives. It is safe for
// concurrent use.
type Client struct{ HTTP *http.Client }

// NewClient asks the node whose data directory it is.
func NewClient(dataDir string) *Client {
	path := parley.SocketPath(dataDir)
	return &Client{&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: maxInFlight,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}}
}

func (n *Net) client(name string) *Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.clients[name]
	if c == nil {
		c = NewClient(n.NodeDir(name))
		n.clients[name] = c
	}
	return c
}

// Socket is the local socket of a node.
func (n *Net) Socket(name string) string { return parley.SocketPath(n.NodeDir(name)) }

// A Refusal is an answer of 400 and above.
type Refusal struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Reason string `json:"reason"`
}

// Error tells what was refused, and why.
func (e *Refusal) Error() string {
	return fmt.Sprintf("%s (%d %s)", or(or(e.Detail, e.Title), "refused"), e.Status, e.Code)
}

// Do sends body as JSON, where there is one, to a path below /api/v1/, and reads
// the answer into out. The error of an answer of 400 and above is a *Refusal.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) (status int, err error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/api/v1/"+path, r)
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		e := &Refusal{}
		b, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
		if err == nil && json.Unmarshal(b, e) != nil {
			e.Detail = string(bytes.TrimSpace(b))
		}
		e.Status = res.StatusCode
		return res.StatusCode, e
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil || out == nil || len(b) == 0 {
		return res.StatusCode, err
	}
	return res.StatusCode, json.Unmarshal(b, out)
}
