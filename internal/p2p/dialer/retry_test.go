package dialer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/wire"
)

// within fails unless lo ≤ d ≤ hi.
func within(t *testing.T, what string, d, lo, hi time.Duration) {
	t.Helper()
	if d < lo || d > hi {
		t.Errorf("%s: %v, want %v to %v", what, d, lo, hi)
	}
}

func TestRetryPhases(t *testing.T) {
	start := time.Unix(1e9, 0)
	r := newRetry(start)
	if !r.next.Equal(start) || r.state != Trying {
		t.Fatalf("a new one waits: %+v", r)
	}
	eager, fast, slow, now := 0, 0, 0, start
	for now.Sub(start) < 10*time.Minute {
		r.failed(now, now, ClassRefused)
		if now.Sub(start) < eagerFor {
			eager++
			within(t, "eager phase", r.next.Sub(now), dropWait, 1200*time.Millisecond)
		} else if now.Sub(start) < fastFor {
			fast++
			within(t, "fast phase", r.next.Sub(now), 4*time.Second, 6*time.Second)
		} else {
			slow++
			within(t, "slow phase", r.next.Sub(now), 24*time.Second, 36*time.Second)
		}
		now = r.next
	}
	if fast < 20 || fast > 30 || slow < 13 || slow > 20 || eager < 4 || eager > 5 || r.tries != eager+fast+slow {
		t.Errorf("%d eager, %d fast and %d slow attempts in 10 min, %d counted", eager, fast, slow, r.tries)
	}
	r.failed(now, now.Add(20*time.Minute), ClassTimeout) // an attempt that took long
	within(t, "after a long attempt", r.next.Sub(now), 20*time.Minute+dropWait, 20*time.Minute+dropWait)

	r.up(now)
	if r.state != Connected || r.class != "" || r.tries != 0 || !r.next.IsZero() {
		t.Fatalf("connected: %+v", r)
	}
	now = now.Add(time.Hour)
	r.down(now, "")
	within(t, "after a drop", r.next.Sub(now), 0, dropWait)
	r.failed(r.next, r.next, ClassRefused)
	within(t, "eager phase again", r.next.Sub(now), dropWait, 3*time.Second)

	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} { // connections that do not live
		r.up(now)
		now = now.Add(time.Second)
		r.down(now, "")
		within(t, "after a connection of a second", r.next.Sub(now), want*800*time.Millisecond, want*1200*time.Millisecond)
		now = r.next
	}
	r.up(now)
	r.down(now.Add(flapping), "")
	r.up(now)
	r.down(now.Add(time.Second), "")
	within(t, "after one that lived", r.next.Sub(now), 1800*time.Millisecond, 2200*time.Millisecond)
}

func TestRetryRests(t *testing.T) {
	now := time.Unix(1e9, 0)
	for c, want := range map[Class]time.Duration{
		ClassIdentity: 5 * time.Minute, ClassNotAllowed: 15 * time.Second, ClassWrongNetwork: 10 * time.Minute, ClassFull: time.Minute,
	} {
		r := newRetry(now)
		r.failed(now, now, c)
		within(t, string(c), r.next.Sub(now), want, want*11/10)
		if r.state != Paused || r.class != c {
			t.Errorf("%s: %+v", c, r)
		}
	}
	r := newRetry(now)
	for _, want := range []time.Duration{1, 2, 4, 5, 5} {
		r.failed(now, now, ClassFull)
		within(t, "full", r.next.Sub(now), want*time.Minute, want*time.Minute*11/10)
	}
	for _, want := range []time.Duration{15, 30, 60, 120, 240, 300, 300} {
		r.failed(now, now, ClassNotAllowed)
		within(t, "not allowed", r.next.Sub(now), want*time.Second, want*time.Second*11/10)
	}
	r.failed(now, now, ClassSelf)
	if r.state != self || !r.next.IsZero() {
		t.Errorf("self: %+v", r)
	}
	r = newRetry(now)
	r.up(now)
	r.down(now.Add(time.Hour), classOfGoodbye(wire.GoodbyeTooManyPeers))
	if r.state != Paused || r.class != ClassFull {
		t.Errorf("after the goodbye of a full peer: %+v", r)
	}
}

type refused uint32

func (r refused) Error() string       { return "refused" }
func (r refused) RefusalCode() uint32 { return uint32(r) }

// keyFault is an error of the fence of a private network, sure or not.
type keyFault bool

func (keyFault) Error() string       { return "it has another shared key" }
func (f keyFault) IsPNetError() bool { return bool(f) }

func TestClassify(t *testing.T) {
	dial := func(causes ...error) error {
		e := &swarm.DialError{Cause: swarm.ErrAllDialsFailed}
		for _, c := range causes {
			e.DialErrors = append(e.DialErrors, swarm.TransportError{Cause: c})
		}
		return fmt.Errorf("dial: %w", e)
	}
	op := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "connect", Err: errno}}
	}
	for _, tt := range []struct {
		err  error
		want Class
	}{
		{dial(op(syscall.ECONNREFUSED)), ClassRefused},
		{dial(os.ErrDeadlineExceeded, op(syscall.ECONNREFUSED)), ClassRefused},
		{dial(op(syscall.EHOSTUNREACH)), ClassUnreachable},
		{dial(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}), ClassTimeout},
		{dial(op(syscall.ETIMEDOUT)), ClassTimeout},
		{dial(fmt.Errorf("handshake: %w", io.EOF)), ClassRefused},
		{context.DeadlineExceeded, ClassTimeout},
		{&swarm.DialError{Cause: swarm.ErrNoAddresses}, ClassUnreachable},
		{&swarm.DialError{Cause: swarm.ErrGaterDisallowedConnection}, ClassBanned},
		{fmt.Errorf("resolve x: %w", &net.DNSError{IsNotFound: true}), ClassDNS},
		{fmt.Errorf("resolve x: %w", &net.DNSError{IsTimeout: true}), ClassDNS},
		{network.ErrResourceLimitExceeded, ClassFull},
		{dial(&network.ConnError{Remote: true, ErrorCode: network.ConnResourceLimitExceeded}), ClassFull},
		{dial(&network.ConnError{Remote: true, ErrorCode: network.ConnGated}), ClassNotAllowed},
		{dial(fmt.Errorf("upgrade: %w", keyFault(true))), ClassNotAllowed},
		{dial(fmt.Errorf("upgrade: %w: %w", keyFault(false), io.EOF)), ClassRefused},
		{&mismatchError{}, ClassIdentity},
		{fmt.Errorf("greet: %w", refused(wire.WrongGenesis)), ClassWrongNetwork},
		{refused(wire.TooManyPeers), ClassFull},
		{refused(wire.Banned), ClassNotAllowed},
		{refused(wire.Self), ClassSelf},
		{fmt.Errorf("dial: %w", errSelf), ClassSelf},
		{dial(swarm.ErrDialToSelf, op(syscall.ECONNREFUSED)), ClassRefused}, // one of the peer's addresses is ours
		{errors.Join(dial(swarm.ErrNoTransport), dial(os.ErrDeadlineExceeded)), ClassTimeout},
		{errors.New("who knows"), ClassUnreachable},
	} {
		if got := classify(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestParseItem(t *testing.T) {
	const id = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
	for text, want := range map[string]string{
		"node1:8080": " node1 8080", "node1": " node1 9906", " 10.0.0.1 ": " 10.0.0.1 9906", "::1": " ::1 9906", "[::1]": " ::1 9906",
		"[2001:db8::1]:8080": " 2001:db8::1 8080", "http://node1:8080": "http node1 8080", "https://node1.example.org": "https node1.example.org 443",
		"http://node1/": "http node1 80",
	} {
		it, err := parseItem(text, 9906)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := fmt.Sprint(it.scheme, " ", it.host, " ", it.port); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	it, err := parseItem("/ip4/10.0.0.1/tcp/9906/p2p/"+id, 9906)
	if err != nil || it.id.String() != id || it.addr.String() != "/ip4/10.0.0.1/tcp/9906" || it.named() {
		t.Errorf("multiaddr: %+v, %v", it, err)
	}
	it, err = parseItem("/dnsaddr/bootstrap.example.org", 9906)
	if err != nil || !it.named() {
		t.Errorf("dnsaddr: %+v, %v", it, err)
	}
	for _, text := range []string{"", "enode://abc@1.2.3.4:30303", "enr:-abc", "node1:0", "node1:99999", "node 1", "ftp://x", "/p2p/" + id, "/ip4/1", "http://:80", ":8080", id, id + ":9906"} {
		if it, err := parseItem(text, 9906); err == nil {
			t.Errorf("%q was read as %+v", text, it)
		}
	}
}

func FuzzParseItem(f *testing.F) {
	for _, s := range []string{"node1:8080", "[::1]:1", "http://a:1", "/ip4/1.2.3.4/tcp/1", "/dnsaddr/a", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		it, err := parseItem(s, 9906)
		if err == nil && it.host == "" && len(it.addr) == 0 {
			t.Errorf("%q stands for nothing", s)
		}
		if err == nil {
			it.named()
		}
	})
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add([]byte(`{"data":{"peer_id":"12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5","p2p_addresses":["/ip4/1.2.3.4/tcp/8080/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"]}}`))
	f.Add([]byte(`{"data":{"peer_id":"","p2p_addresses":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		who, err := decodeIdentity(b)
		if err == nil && (who.ID.Validate() != nil || len(who.Addrs) > identityAddrs) {
			t.Errorf("%q: %+v", b, who)
		}
	})
}

// What an operator reads is one short line, without ids that nobody has.
func TestReason(t *testing.T) {
	addr := func(text string) ma.Multiaddr { return ma.StringCast(text) }
	failed := func(at string, cause error) error {
		return &swarm.DialError{Peer: "nobody", Cause: swarm.ErrAllDialsFailed, DialErrors: []swarm.TransportError{{Address: addr(at), Cause: cause}}}
	}
	refusedAt := &net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}
	tcp, quic := "/ip4/192.0.2.1/tcp/9906", "/ip4/192.0.2.1/udp/9906/quic-v1"
	asked := func(at string, cause error) error { return &addrError{addr(at), failed(at, cause)} }
	learn := func(errs ...error) error { return fmt.Errorf("learn the peer id: %w", errors.Join(errs...)) }
	for _, tt := range []struct {
		err  error
		want string
	}{
		{learn(asked(quic, context.DeadlineExceeded), asked(tcp, refusedAt)), "nobody listens at 192.0.2.1:9906 (another address failed too)"},
		{learn(asked(tcp, os.ErrDeadlineExceeded), asked(quic, context.DeadlineExceeded)), "no answer from 192.0.2.1:9906 (another address failed too)"},
		{fmt.Errorf("dial: %w", failed(quic, context.DeadlineExceeded)), "no answer from 192.0.2.1:9906 (QUIC)"},
		{fmt.Errorf("dial: %w", failed(tcp, fmt.Errorf("failed to negotiate security protocol: %w", io.EOF))), "192.0.2.1:9906 hung up before the handshake: it is full, has banned this node, or wants the shared key of a private network"},
		{failed(tcp, fmt.Errorf("failed to negotiate security protocol: %w", errors.New("no trailing newline"))), "192.0.2.1:9906: no trailing newline"},
		{failed(tcp, fmt.Errorf("upgrade: %w: %w", keyFault(false), io.EOF)), "192.0.2.1:9906: it has another shared key"},
		{fmt.Errorf("dial: %w", errors.Join(failed(tcp, refusedAt), failed(tcp, swarm.ErrDialBackoff), failed(quic, swarm.ErrNoTransport))), "nobody listens at 192.0.2.1:9906"},
		{failed(quic, swarm.ErrNoTransport), "192.0.2.1:9906 (QUIC): no transport for protocol"},
		{failed(tcp, &network.ConnError{Remote: true, ErrorCode: network.ConnGated}), "192.0.2.1:9906 does not let this node in: it has banned it, or a list of peers that may connect and this one is not on it"},
		{fmt.Errorf("dial: %w", errors.Join(&knownError{ClassBanned, "this node has banned it", failed(tcp, swarm.ErrGaterDisallowedConnection)}, failed(tcp, swarm.ErrDialBackoff))), "this node has banned it"},
		{failed(tcp, swarm.ErrGaterDisallowedConnection), "this node has banned the address of 192.0.2.1:9906: see parley bans check"},
		{&swarm.DialError{Peer: "nobody", Cause: swarm.ErrNoAddresses}, "no address of it is known"},
		{fmt.Errorf("resolve x.invalid: %w", &net.DNSError{Name: "x.invalid", IsNotFound: true}), "x.invalid is not in the DNS"},
		{fmt.Errorf("resolve x.invalid: %w", errNoAddress), "resolve x.invalid: the name has no address"},
		{fmt.Errorf("greet: %w", context.DeadlineExceeded), "no answer in time"},
		{fmt.Errorf("greet: %w", refused(wire.WrongGenesis)), "greet: refused"},
		{errors.New(strings.Repeat("long ", 1000)), strings.Repeat("long ", maxReason/5) + "…"},
	} {
		if got := reason(tt.err); got != tt.want {
			t.Errorf("%v:\n got %s\nwant %s", tt.err, got, tt.want)
		}
	}
}
