package dialer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	identityTimeout = 2 * time.Second
	identityBytes   = 64 << 10 // of the body
	identityHeader  = 16 << 10
	identityAddrs   = 32
)

// identityClient keeps no connection: each address is asked once in a while.
var identityClient = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: identityHeader},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ErrNotHTTP means that whoever answers at an address does not serve a node's
// API there.
var ErrNotHTTP = errors.New("no node's API answers there")

// Identity is what a node's API says of its libp2p host.
type Identity struct {
	ID    peer.ID
	Addrs []ma.Multiaddr // without /p2p, at most 32

	Private bool // it takes nobody without the shared key of its network
}

// FetchIdentity asks GET /eth/v1/node/identity at hostport, host:port or a URL
// without path, for at most 2 s and 64 KiB. The answer is the word of whoever
// holds the address; dialling the id proves it. A nil client is one that goes
// there straight, follows no redirect and reads little of headers.
func FetchIdentity(ctx context.Context, client *http.Client, hostport string) (Identity, error) {
	if client == nil {
		client = identityClient
	}
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	base := hostport
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/eth/v1/node/identity", http.NoBody)
	if err != nil {
		return Identity{}, fmt.Errorf("ask %s for its identity: %w", hostport, err)
	}
	req.Close = true
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		var op *net.OpError
		if ctx.Err() == nil && !errors.As(err, &op) {
			err = errors.Join(ErrNotHTTP, err) // it answers, but not in HTTP
		}
		return Identity{}, fmt.Errorf("ask %s for its identity: %w", hostport, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, identityBytes+1))
	if err != nil {
		return Identity{}, fmt.Errorf("read the identity of %s: %w", hostport, err)
	}
	if res.StatusCode != http.StatusOK || len(body) > identityBytes {
		return Identity{}, fmt.Errorf("identity of %s: %w: status %d, %d bytes", hostport, ErrNotHTTP, res.StatusCode, len(body))
	}
	id, err := decodeIdentity(body)
	if err != nil {
		return Identity{}, fmt.Errorf("identity of %s: %w: %w", hostport, ErrNotHTTP, err)
	}
	return id, nil
}

// decodeIdentity reads the answer; addresses that do not parse are left out.
func decodeIdentity(body []byte) (Identity, error) {
	var answer struct {
		Data struct {
			PeerID    string   `json:"peer_id"`
			Addresses []string `json:"p2p_addresses"`
			Private   bool     `json:"private_network"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Identity{}, err
	}
	id, err := peer.Decode(answer.Data.PeerID)
	if err != nil {
		return Identity{}, fmt.Errorf("peer_id: %w", err)
	}
	node := Identity{ID: id, Private: answer.Data.Private}
	for _, text := range answer.Data.Addresses {
		if len(node.Addrs) == identityAddrs {
			break
		}
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			continue
		}
		if bare, of := peer.SplitAddr(a); len(bare) > 0 && (of == "" || of == id) {
			node.Addrs = append(node.Addrs, bare)
		}
	}
	return node, nil
}
