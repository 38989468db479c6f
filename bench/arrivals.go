package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	libnetwork "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/devnet"
)

// target is a node in a process of its own.
type target struct {
	cmd  *exec.Cmd
	api  *devnet.Client
	info peer.AddrInfo // its addresses on loopback, TCP and QUIC
}

func startTarget(ctx context.Context, binary, dir string) (*target, error) {
	t := &target{api: devnet.NewClient(dir)}
	t.cmd = exec.CommandContext(ctx, binary, "run", "--data-dir", dir, "--api-listen", "127.0.0.1:0", "--set", "p2p.port=0", "--set", "profile=devnet",
		"--set", "ops.listen=", "--set", "discovery.dht=off", "--set", "discovery.pex=false", "--set", "log.level=error")
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	var info parley.Info
	for end := time.Now().Add(20 * time.Second); ; {
		_, err := t.api.Do(ctx, "GET", "node", nil, &info)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("the node does not answer: %w", err), t.stop())
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.info.ID = info.PeerID
	for _, text := range info.Listen {
		if a, ok := strings.CutPrefix(text, "/ip4/0.0.0.0/"); ok {
			t.info.Addrs = append(t.info.Addrs, ma.StringCast("/ip4/127.0.0.1/"+a))
		}
	}
	return t, nil
}

func (t *target) stop() error {
	_ = t.cmd.Process.Signal(os.Interrupt)
	err := t.cmd.Wait()
	t.api.HTTP.CloseIdleConnections()
	return err
}

// cpu is what the threads of the process have used, those that ended left out.
func (t *target) cpu() (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", t.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

const (
	bannedIP = "127.0.0.2"
	otherIP  = "127.0.0.3"
)

func measureArrivals(ctx context.Context, binary, dir string, p bansPlan, say *progress) (rows []arrival, err error) {
	t, err := startTarget(ctx, binary, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if _, err := t.api.Do(ctx, "POST", "bans", map[string]any{"target": bannedIP, "forever": true, "force": true}, nil); err != nil {
		return nil, fmt.Errorf("ban %s: %w", bannedIP, err)
	}
	for _, transport := range []string{"tcp", "quic"} {
		row := arrival{Transport: transport}
		at, err := t.at(transport)
		if err != nil {
			return nil, err
		}
		for range p.Rounds {
			refused, err := t.cost(p.Arrivals, func() error { return knock(ctx, transport, at) })
			if err != nil {
				return nil, err
			}
			row.RefusedMS.add(refused)
			if transport == "quic" {
				woken, err := t.woken(ctx, p.Arrivals, at)
				if err != nil {
					return nil, err
				}
				row.WokenMS.add(woken)
				flood, err := t.flooded(ctx, p.Arrivals, at)
				if err != nil {
					return nil, err
				}
				row.FloodMS.add(flood)
			}
			h, err := caller(otherIP)
			if err != nil {
				return nil, err
			}
			taken, err := t.cost(max(1, p.Arrivals/10), func() error { return visit(ctx, h, peer.AddrInfo{ID: t.info.ID, Addrs: []ma.Multiaddr{at}}) })
			if err = errors.Join(err, h.Close()); err != nil {
				return nil, err
			}
			row.TakenMS.add(taken)
			say.now("bans: arrivals over %s", transport)
		}
		if len(row.WokenMS) > 0 {
			say.done("bans: to wake up for a packet alone takes %s ms", row.WokenMS.text())
		}
		say.done("bans: a refusal over %s takes %s ms of the node's CPU", transport, row.RefusedMS.text())
		rows = append(rows, row)
	}
	return rows, nil
}

// at is the node's address of a transport.
func (t *target) at(transport string) (ma.Multiaddr, error) {
	code := map[string]int{"tcp": ma.P_TCP, "quic": ma.P_QUIC_V1}[transport]
	for _, a := range t.info.Addrs {
		if _, err := a.ValueForProtocol(code); err == nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("the node has no address for %s: %v", transport, t.info.Addrs)
}

// cost is the CPU time of the node for one of n arrivals, in ms, without what
// it uses when nobody comes.
func (t *target) cost(n int, arrive func() error) (float64, error) {
	start, err := t.cpu()
	if err != nil {
		return 0, err
	}
	idle := time.Now()
	time.Sleep(200 * time.Millisecond)
	begin, err := t.cpu()
	if err != nil {
		return 0, err
	}
	rest := float64(begin-start) / float64(time.Since(idle))
	clock := time.Now()
	for range n {
		if err := arrive(); err != nil {
			return 0, err
		}
	}
	end, err := t.cpu()
	if err != nil {
		return 0, err
	}
	used := float64(end-begin) - rest*float64(time.Since(clock))
	return max(0, used) / float64(time.Millisecond) / float64(n), nil
}

// knock comes from the banned address, and is turned away.
func knock(ctx context.Context, transport string, at ma.Multiaddr) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if transport == "tcp" {
		port, err := at.ValueForProtocol(ma.P_TCP)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(bannedIP)}}
		c, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("a banned address is not turned away: %d bytes, %w", n, err)
		}
		return nil
	}
	port, err := at.ValueForProtocol(ma.P_UDP)
	if err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(bannedIP)})
	if err != nil {
		return err
	}
	defer socket.Close()
	c, err := quic.Dial(ctx, socket, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"libp2p"}}, nil) //nolint:gosec // it is turned away
	if err == nil {
		_ = c.CloseWithError(0, "")
		return errors.New("a banned address is let in")
	}
	var refused *quic.TransportError
	if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
		return fmt.Errorf("a banned address is not refused, but: %w", err)
	}
	return nil
}

// Of the attempts that come at once: a node answers 1,000 a second.
const (
	atOnce    = 50
	atOnceFor = 60 * time.Millisecond
)

// flooded is the cost of an attempt over QUIC, of which the banned address makes
// many at once, each by one packet with which a handshake begins.
func (t *target) flooded(ctx context.Context, n int, at ma.Multiaddr) (float64, error) {
	port, err := at.ValueForProtocol(ma.P_UDP)
	if err != nil {
		return 0, err
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(bannedIP)}}
	c, err := d.DialContext(ctx, "udp", "127.0.0.1:"+port)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	initial := make([]byte, 1200) // RFC 9000, 17.2.2: version 1, an id of 8 bytes, none of its own
	initial[0], initial[4], initial[5] = 0xc3, 1, 8
	answer := make([]byte, 128)
	cost, err := t.cost(max(1, n/atOnce), func() error {
		begin := time.Now()
		for range atOnce {
			binary.BigEndian.PutUint64(initial[6:], rand.Uint64())
			if _, err := c.Write(initial); err != nil {
				return err
			}
		}
		_ = c.SetReadDeadline(begin.Add(5 * time.Second))
		for i := range atOnce {
			if _, err := c.Read(answer); err != nil {
				return fmt.Errorf("%d of %d attempts of a banned address are answered: %w", i, atOnce, err)
			}
		}
		time.Sleep(atOnceFor - time.Since(begin))
		return nil
	})
	return cost / atOnce, err
}

// woken is the cost of one byte over UDP, from an address that is not banned.
func (t *target) woken(ctx context.Context, n int, at ma.Multiaddr) (float64, error) {
	port, err := at.ValueForProtocol(ma.P_UDP)
	if err != nil {
		return 0, err
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(otherIP)}}
	c, err := d.DialContext(ctx, "udp", "127.0.0.1:"+port)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return t.cost(n, func() error {
		_, err := c.Write([]byte{0})
		time.Sleep(2 * time.Millisecond) // it goes back to sleep, as between two knocks
		return err
	})
}

// caller is a libp2p host that dials from an address.
func caller(ip string) (host.Host, error) {
	src := net.ParseIP(ip)
	return libp2p.New(libp2p.NoListenAddrs, libp2p.ResourceManager(&libnetwork.NullResourceManager{}), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.Transport(tcp.NewTCPTransport, tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) {
			return &net.Dialer{LocalAddr: &net.TCPAddr{IP: src}}, nil
		})), libp2p.Transport(libquic.NewTransport),
		libp2p.QUICReuse(quicreuse.NewConnManager, quicreuse.OverrideListenUDP(func(network string, at *net.UDPAddr) (net.PacketConn, error) {
			return net.ListenUDP(network, &net.UDPAddr{IP: src, Port: at.Port})
		})))
}

// visit connects and leaves.
func visit(ctx context.Context, h host.Host, to peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := h.Connect(ctx, to); err != nil {
		return err
	}
	return h.Network().ClosePeer(to.ID)
}
