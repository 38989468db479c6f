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
	maxAnswer  = 1 << 20 // bytes
	maxRefusal = 64 << 10
)

// client asks one node at its local socket, where no token is needed.
type client struct{ http *http.Client }

func (n *Net) client(name string) *client {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.clients[name]
	if c == nil {
		path := parley.SocketPath(n.NodeDir(name))
		c = &client{&http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: maxInFlight,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
		}}}
		n.clients[name] = c
	}
	return c
}

// Socket is the local socket of a node.
func (n *Net) Socket(name string) string { return parley.SocketPath(n.NodeDir(name)) }

// A refusal is an answer of 400 and above.
type refusal struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Reason string `json:"reason"`
}

func (e *refusal) Error() string {
	return fmt.Sprintf("%s (%d %s)", or(or(e.Detail, e.Title), "refused"), e.Status, e.Code)
}

// do sends body as JSON, where there is one, and reads the answer into out.
func (c *client) do(ctx context.Context, method, path string, body, out any) (status int, err error) {
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
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		e := &refusal{}
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
