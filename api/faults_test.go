package api

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
)

// TestDetailNamesTheFault holds the one text that every client shows to the
// fault that it is about.
func TestDetailNamesTheFault(t *testing.T) {
	h := start(t, nil)
	admin := h.token("admin")
	for _, c := range []struct {
		method, path, body string
		status             int
		detail             string
		header             []string
	}{
		{"GET", "/api/v1/peers?stat=known", "", 422, "query.stat: there is no such parameter, did you mean state?", nil},
		{"GET", "/api/v1/peers?zzz=1&stat=known", "", 422, "query.stat: there is no such parameter, did you mean state? (and 1 more)", nil},
		{"GET", "/api/v1/bans/check?q=1", "", 422, "query.q: there is no such parameter: there are target", nil},
		{"GET", "/api/v1/status?_=1", "", 422, "query._: there is no such parameter: this route takes none", nil},
		{"GET", "/api/v1/status?token=x", "", 422, "query.token: there is no such parameter: send Authorization: Bearer …", nil},
		{"GET", "/api/v1/events?type=peer.*", "", 422, "query.type: there is no such parameter, did you mean types?", nil},
		{"GET", "/api/v1/peers?limit=0", "", 422, "query.limit: expected number >= 1", nil},
		{"POST", "/api/v1/records", `{"subject":"s","colour":1}`, 422, "body.colour: unexpected property", nil},
		{"POST", "/api/v1/records", `{`, 400, "body: unexpected end of JSON input", nil},
		{"POST", "/api/v1/records", `{}`, 415, "body: unknown content type: text/plain: send Content-Type: application/json", []string{"Content-Type", "text/plain"}},
	} {
		got := h.do(c.method, c.path, admin, c.body, c.header...)
		m := got.json(t)
		if faults, _ := m["errors"].([]any); got.status != c.status || m["detail"] != c.detail || len(faults) == 0 {
			t.Errorf("%s %s: %s", c.method, c.path, got.body)
		}
	}
	for _, path := range []string{"/api/peers?x=1", "/health?x=1", "/eth/v1/node/version?x=1", "/livez?x=1"} {
		if got := h.do("GET", path, "", ""); got.status != 200 {
			t.Errorf("%s, of other systems, takes what it does not know: %d %s", path, got.status, got.body)
		}
	}
}

// errors asks for what there is not, or not so.
func (p pair) errors(t *testing.T) {
	h := p.h
	admin := h.token("admin")
	unknown := strings.Repeat("ab", 32)
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		code                      string // of a problem, or the word of another system
		header                    []string
	}{
		{"GET", "/api/v1/nothing", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/status/", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1//status", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/%2e%2e/v1/status", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/%2e%2e", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks/1%2frecords", "", "", 400, "PLY-002", nil},
		{"DELETE", "/api/v1/status", "", "", 405, "PLY-009", nil},
		{"PUT", "/api/v1/records", admin, "{}", 405, "PLY-009", nil},
		{"OPTIONS", "/api/v1/records", "", "", 405, "PLY-009", nil},
		{"POST", "/api/v1/records", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"POST", "/api/v1/records", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/records/batch", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/records", admin, "{", 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, "", 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, "[]", 422, "PLY-003", nil},
		{"POST", "/api/v1/records", admin, strings.Repeat("[", 100_000), 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, `{"subject":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","colour":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records?ack=maybe", admin, `{"subject":"s"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records?timeout=1y", admin, `{"subject":"s"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"` + strings.Repeat("x", 128<<10) + `"}`, 413, "PLY-008", nil},
		{"POST", "/api/v1/records/batch", admin, strings.Repeat("x", 4<<20+1), 413, "PLY-008", nil},
		{"POST", "/api/v1/records", admin, `{"subject":" s","body":1}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"media_type":"x"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":"` + strings.Repeat("x", 66000) + `"}`, 413, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"raw":"00"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"raw":"zz"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"body_base64":"AA=="}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"author":"` + unknown + `","nonce":1,"sig":"` + unknown + unknown + `"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", "", `{"subject":"s"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/records", h.token("read"), `{"subject":"s"}`, 403, "PLY-005", nil},
		{"GET", "/api/v1/records/" + unknown, "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/records/xyz", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=a&author=b", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?author=b", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=s&cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=s&limit=0", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/records?subject=s&limit=1001", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/chain/blocks?from=-1", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/chain/blocks?from=99999999999999999999", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks/99999", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/" + unknown, "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/latest", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers?state=odd", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/peers?state=known&cursor=away.x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/x", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/" + h.node.Info().PeerID.String(), "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/x/history", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/history?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/history?cursor=99999999999999999999", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/history?limit=1001", "", "", 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-node", "", `{"peer":"x"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/dht/find-node", h.token("read"), `{"peer":"x"}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/dht/find-node", admin, `{"peer":"x"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/dht/find-node", admin, `{}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-providers", admin, `{"key":""}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-providers", admin, `{"key":"a","limit":129}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/provide", admin, `{"key":"` + strings.Repeat("x", 1025) + `"}`, 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values?key=/ipns/x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/values?key=A", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/values?key=a&quorum=21", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values?key=nobody-has-this", "", "", 404, "PLY-006", nil},
		{"PUT", "/api/v1/dht/values?key=a", "", `{"value":"aGVsbG8="}`, 401, "PLY-004", nil},
		{"PUT", "/api/v1/dht/values?key=a", admin, `{"value":"!"}`, 422, "PLY-003", nil},
		{"PUT", "/api/v1/dht/values?key=a", admin, `{"value":"` + base64.StdEncoding.EncodeToString(make([]byte, 3841)) + `"}`, 413, "PLY-008", nil},
		{"PUT", "/api/v1/dht/values?key=/parley/a/" + p.follower.node.ID().String(), admin, `{"value":"aGVsbG8="}`, 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/table?cursor=x", "", "", 400, "PLY-002", nil},
		{"DELETE", "/api/v1/dht/values?key=a", admin, "", 405, "PLY-009", nil},
		{"GET", "/api/v1/addrbook", "", "", 401, "PLY-004", nil},
		{"GET", "/api/v1/addrbook?table=old", admin, "", 422, "PLY-003", nil},
		{"GET", "/api/v1/addrbook?cursor=x", admin, "", 400, "PLY-002", nil},
		{"GET", "/api/v1/addrbook?cursor=tried.x", admin, "", 400, "PLY-002", nil},
		{"GET", "/api/v1/addrbook/export", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"host.example.org"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"0.0.0.0/0"}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"192.0.2.1","for":"1h","forever":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"192.0.2.1","for":"soon"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", h.token("read"), `{"target":"192.0.2.1"}`, 403, "PLY-005", nil},
		{"GET", "/api/v1/bans/192.0.2.1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/bans/192.0.2.1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/bans", admin, "", 422, "PLY-003", nil},
		{"GET", "/api/v1/bans/check?target=x.example.org", "", "", 400, "PLY-002", nil},
		{"POST", "/api/v1/addrbook/import", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/addrbook/import", admin, `{"parley_addrbook":1,"network":"ffffffff","entries":0}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/addrbook/import", admin, strings.Repeat(" ", 16<<20+1), 413, "PLY-008", nil},
		{"POST", "/api/v1/peers", "", `{"address":"127.0.0.1:1"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/peers", h.token("read"), `{"address":"127.0.0.1:1"}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/peers", admin, `{}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":""}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.Repeat("x", 2000) + `"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"enode://a@b:1","static":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"300.1.1.1:1"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"127.0.0.1:1","static":true,"trusted":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"/ip4/127.0.0.1/tcp/1"}`, 502, "PLY-016", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.TrimPrefix(h.base, "http://") + `"}`, 502, "PLY-016", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.TrimPrefix(h.base, "http://") + `","static":true}`, 400, "PLY-002", nil},
		{"GET", "/api/v1/gossip/mesh?topic=odd", "", "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":0}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":101}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":1,"reason":"spam"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + h.node.ID().String() + "/penalize", admin, `{"points":1}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers/x/connect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/connect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/disconnect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/untrust", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/trust", admin, "", 400, "PLY-002", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/connect", admin, "", 502, "PLY-016", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/trust", "", "", 401, "PLY-004", nil},
		{"DELETE", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/peers/none:1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/peers/none:1", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/chain/validators", "", `{"remove":[1]}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/chain/validators", h.token("read"), `{"remove":[1]}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/chain/validators", admin, `{}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[9]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[1]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"ed25519:ab"}]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"threshold":2}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"zz"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"00","remove":[1]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"00"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"threshold":1,"approvals":["00"]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"` + unknown + `"}]}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"` + unknown + `"}],"accept_two":true}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[1],"colour":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/chain/validators?timeout=1y", admin, `{"remove":[1]}`, 400, "PLY-002", nil},
		{"PATCH", "/api/v1/config", "", `{"log":{"level":"debug"}}`, 401, "PLY-004", nil},
		{"PATCH", "/api/v1/config", h.token("read"), `{"log":{"level":"debug"}}`, 403, "PLY-005", nil},
		{"PATCH", "/api/v1/config", admin, `{"log":{"lvl":"debug"}}`, 422, "PLY-003", nil},
		{"PATCH", "/api/v1/config", admin, `{"p2p":{"port":1}}`, 422, "PLY-003", nil},
		{"PATCH", "/api/v1/config", admin, `{"api":{"jwt_secret_file":"/etc/shadow"}}`, 403, "PLY-005", nil},
		{"PATCH", "/api/v1/config", admin, `[]`, 422, "PLY-003", nil},
		{"GET", "/api/v1/gossip/traces/x", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/gossip/traces/" + strings.Repeat("z", 40), "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/gossip/traces/" + strings.Repeat("a", 40), "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers?stat=known", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/status?_=1", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/events?type=peer.*", "", "", 422, "PLY-003", nil},
		{"POST", "/api/v1/records/batch?acks=accepted", admin, "", 422, "PLY-003", nil},
		{"GET", "/api/v1", "", "", 404, "PLY-006", nil},
		{"POST", "/api/v1/config/reload", "", "", 401, "PLY-004", nil},
		{"POST", "/api/v1/config/reload", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/config/reload?force=maybe", admin, "", 422, "PLY-003", nil},
		{"POST", "/api/v1/devnet/partition", admin, `{"groups":[["other"]]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/devnet/partition", admin, `{}`, 422, "PLY-003", nil},
		{"GET", "/api/v1/ws", "", "", 426, "PLY-009", nil},
		{"GET", "/api/v1/events?types=[", "", "", 400, "PLY-002", nil}, {"GET", "/api/v1/events?types=peers.*", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/events?since=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/status", "", "", 403, "PLY-005", []string{"Host", "evil.example"}},
		{"GET", "/api/blockchain/blocks/99999", "", "", 404, "block_not_found", nil},
		{"GET", "/api/blockchain/blocks/x", "", "", 404, "block_not_found", nil},
		{"GET", "/api/blockchain/dump?from=x", "", "", 400, "bad_request", nil},
		{"GET", "/api/nothing", "", "", 404, "not_found", nil},
		{"POST", "/api/peers", "", "", 405, "method_or_type", nil},
		{"GET", "/eth/v1/node/peers/x", "", "", 400, "400", nil},
		{"GET", "/eth/v1/node/peers?state=odd", "", "", 400, "400", nil},
		{"GET", "/eth/v1/nothing", "", "", 404, "404", nil},
		{"GET", "/eth/v1alpha1/node/peer", "", "", 400, "400", nil},
		{"GET", "/eth/v1alpha1/node/peer?peer_id=12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "", "", 404, "404", nil},
		{"POST", "/prysm/v1/node/trusted_peers", admin, `{"addr":"127.0.0.1:1"}`, 400, "400", nil},
		{"POST", "/prysm/v1/node/trusted_peers", admin, `{`, 400, "400", nil},
		{"POST", "/prysm/v1/node/trusted_peers", h.token("read"), `{}`, 403, "403", nil},
		{"DELETE", "/prysm/v1/node/trusted_peers/x", admin, "", 400, "400", nil},
		{"GET", "/ws", "", "", 426, "PLY-009", nil},
		{"GET", "/", "", "", 404, "PLY-006", nil},
		{"GET", "/metrics", "", "", 404, "PLY-006", nil},
		{"GET", "/debug/pprof/", "", "", 404, "PLY-006", nil},
	} {
		name := fmt.Sprintf("%s %.60s %.40s", c.method, c.path, c.body)
		var got reply
		if len(c.header) == 2 && c.header[0] == "Host" {
			got = call(h.Server, parley.Listener{Loopback: true}, "127.0.0.1:1", c.method, c.path, "", c.header...)
		} else {
			got = h.do(c.method, c.path, c.token, c.body, c.header...)
		}
		if got.status != c.status {
			t.Errorf("%s: status %d, want %d: %.200s", name, got.status, c.status, got.body)
			continue
		}
		m := got.json(t)
		code := fmt.Sprint(m["code"])
		if m["error"] != nil {
			code = fmt.Sprint(m["error"])
		}
		if code != c.code {
			t.Errorf("%s: code %s, want %s", name, code, c.code)
		}
		if strings.HasPrefix(c.code, "PLY") {
			path, _, _ := strings.Cut(c.path, "?")
			if got.header.Get("Content-Type") != problemType || m["status"] != float64(c.status) || m["type"] == nil || m["title"] == nil || m["instance"] == nil {
				t.Errorf("%s: not a problem of RFC 9457: %s %s", name, got.header.Get("Content-Type"), got.body)
			} else if !strings.Contains(path, "%") && m["instance"] != path {
				t.Errorf("%s: instance %v", name, m["instance"])
			}
		}
		if c.code == "PLY-017" && m["reason"] == nil {
			t.Errorf("%s: refused without a reason", name)
		}
		if len(got.body) > 2000 {
			t.Errorf("%s: an error of %d bytes", name, len(got.body))
		}
	}
}
