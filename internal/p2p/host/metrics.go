package host

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	libmetrics "github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// Bandwidth is bytes of stream data since the start.
type Bandwidth struct {
	In, Out int64
}

// Bandwidth returns the total and the part of each connected peer.
func (h *Host) Bandwidth() (total Bandwidth, peers map[peer.ID]Bandwidth) {
	peers = map[peer.ID]Bandwidth{}
	h.bandwidth.peers.Range(func(p, c any) bool {
		peers[p.(peer.ID)] = c.(*counter).read()
		return true
	})
	return h.bandwidth.total.read(), peers
}

type counter struct{ in, out atomic.Int64 }

func (c *counter) read() Bandwidth { return Bandwidth{In: c.in.Load(), Out: c.out.Load()} }

// bandwidth is libp2p's reporter. The library's own keeps one goroutine for
// the process, which no bubble can hold; this one has none, and no rates.
type bandwidth struct {
	total counter
	peers sync.Map // peer.ID → *counter, of connected peers
}

var _ libmetrics.Reporter = (*bandwidth)(nil)

func (b *bandwidth) connected(p peer.ID)    { b.peers.LoadOrStore(p, &counter{}) }
func (b *bandwidth) disconnected(p peer.ID) { b.peers.Delete(p) }

// LogSentMessage and the others implement [libmetrics.Reporter].
func (b *bandwidth) LogSentMessage(n int64) { b.total.out.Add(n) }
func (b *bandwidth) LogRecvMessage(n int64) { b.total.in.Add(n) }
func (b *bandwidth) LogSentMessageStream(n int64, _ protocol.ID, p peer.ID) {
	if c, ok := b.peers.Load(p); ok {
		c.(*counter).out.Add(n)
	}
}
func (b *bandwidth) LogRecvMessageStream(n int64, _ protocol.ID, p peer.ID) {
	if c, ok := b.peers.Load(p); ok {
		c.(*counter).in.Add(n)
	}
}
func (b *bandwidth) GetBandwidthForPeer(p peer.ID) libmetrics.Stats {
	if c, ok := b.peers.Load(p); ok {
		return c.(*counter).stats()
	}
	return libmetrics.Stats{}
}
func (b *bandwidth) GetBandwidthForProtocol(protocol.ID) libmetrics.Stats { return libmetrics.Stats{} }
func (b *bandwidth) GetBandwidthTotals() libmetrics.Stats                 { return b.total.stats() }
func (b *bandwidth) GetBandwidthByPeer() map[peer.ID]libmetrics.Stats     { return nil }
func (b *bandwidth) GetBandwidthByProtocol() map[protocol.ID]libmetrics.Stats {
	return nil
}
func (b *bandwidth) Reset()             {}
func (b *bandwidth) TrimIdle(time.Time) {}

func (c *counter) stats() libmetrics.Stats {
	n := c.read()
	return libmetrics.Stats{TotalIn: n.In, TotalOut: n.Out}
}

// metrics collects what is known of a host at each scrape.
type metrics struct {
	host   *Host
	conns  *prometheus.CounterVec
	unread prometheus.Counter
	peers  *prometheus.Desc
	bytes  *prometheus.Desc
}

// Results of parley_host_connections_total.
const (
	resultOK      = "ok"
	resultRefused = "refused" // by the gater, or before by address
	resultLimited = "limited" // above a limit of connections
	resultKeyless = "keyless" // proved no shared key of a private network
	resultDropped = "dropped" // on the API's port, before it was known what it is
)

func newMetrics(h *Host) *metrics {
	m := &metrics{
		host: h,
		conns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_host_connections_total", Help: "Connections opened, refused by address or peer, above a limit, without the shared key of a private network, or dropped unsorted on the API's port.",
		}, []string{"direction", "transport", "result"}),
		unread: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_host_unread_packets_total", Help: "Packets of QUIC that were not read, for their address is banned.",
		}),
		peers: prometheus.NewDesc("parley_host_peers", "Connected peers by direction of their first connection.", []string{"direction"}, nil),
		bytes: prometheus.NewDesc("parley_host_bytes_total", "Bytes of stream data.", []string{"direction"}, nil),
	}
	for _, direction := range []string{"inbound", "outbound"} {
		for _, transport := range []string{"tcp", "quic-v1", "ws"} {
			m.conns.WithLabelValues(direction, transport, resultOK)
			m.conns.WithLabelValues(direction, transport, resultRefused)
		}
	}
	for _, transport := range []string{"tcp", "quic-v1", "ws"} {
		m.conns.WithLabelValues("inbound", transport, resultLimited)
	}
	for _, transport := range []string{"tcp", "ws"} {
		m.conns.WithLabelValues("inbound", transport, resultKeyless)
	}
	m.conns.WithLabelValues("inbound", "tcp", resultDropped)
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	return reg.Register(m)
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.conns.Describe(ch)
	m.unread.Describe(ch)
	ch <- m.peers
	ch <- m.bytes
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.conns.Collect(ch)
	m.unread.Collect(ch)
	in, out := m.host.PeerCount()
	ch <- prometheus.MustNewConstMetric(m.peers, prometheus.GaugeValue, float64(in), "inbound")
	ch <- prometheus.MustNewConstMetric(m.peers, prometheus.GaugeValue, float64(out), "outbound")
	total, _ := m.host.Bandwidth()
	ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, float64(total.In), "in")
	ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, float64(total.Out), "out")
}

// PeerCount counts the connected peers by the direction of their first connection.
func (h *Host) PeerCount() (inbound, outbound int) {
	first := map[peer.ID]network.ConnStats{}
	for _, c := range h.Network().Conns() {
		s := c.Stat()
		if old, ok := first[c.RemotePeer()]; !ok || s.Opened.Before(old.Opened) {
			first[c.RemotePeer()] = s
		}
	}
	for _, s := range first {
		if s.Direction == network.DirInbound {
			inbound++
		} else {
			outbound++
		}
	}
	return inbound, outbound
}

func (m *metrics) notifiee() network.Notifiee {
	return &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			m.host.bandwidth.connected(c.RemotePeer())
			m.count(c.Stat().Direction, c.RemoteMultiaddr(), resultOK)
		},
		DisconnectedF: func(n network.Network, c network.Conn) {
			if n.Connectedness(c.RemotePeer()) != network.Connected {
				m.host.bandwidth.disconnected(c.RemotePeer())
			}
		},
	}
}

func (m *metrics) count(dir network.Direction, remote ma.Multiaddr, result string) {
	direction := "outbound"
	if dir == network.DirInbound {
		direction = "inbound"
	}
	m.conns.WithLabelValues(direction, Transport(remote), result).Inc()
}

func (m *metrics) dropped() { m.conns.WithLabelValues("inbound", "tcp", resultDropped).Inc() }

// Transport names the transport of an address: tcp, quic-v1 or ws.
func Transport(a ma.Multiaddr) string {
	name := "tcp"
	for _, c := range a {
		switch c.Code() {
		case ma.P_QUIC_V1:
			name = "quic-v1"
		case ma.P_WS, ma.P_WSS:
			name = "ws"
		}
	}
	return name
}

// countingGater counts what the gater below it refuses inbound.
type countingGater struct {
	connmgr.ConnectionGater
	m *metrics
}

// InterceptAccept implements [connmgr.ConnectionGater].
func (g countingGater) InterceptAccept(a network.ConnMultiaddrs) bool {
	ok := g.ConnectionGater.InterceptAccept(a)
	if !ok {
		g.m.count(network.DirInbound, a.RemoteMultiaddr(), resultRefused)
	}
	return ok
}

// InterceptSecured implements [connmgr.ConnectionGater].
func (g countingGater) InterceptSecured(dir network.Direction, p peer.ID, a network.ConnMultiaddrs) bool {
	ok := g.ConnectionGater.InterceptSecured(dir, p, a)
	if !ok {
		g.m.count(dir, a.RemoteMultiaddr(), resultRefused)
	}
	return ok
}

// InterceptUpgraded implements [connmgr.ConnectionGater].
func (g countingGater) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	ok, why := g.ConnectionGater.InterceptUpgraded(c)
	if !ok {
		g.m.count(c.Stat().Direction, c.RemoteMultiaddr(), resultRefused)
	}
	return ok, why
}

// lessIdle keeps out the metrics of the library's resource manager, which are
// off: limits.go says so to the manager, and its 200 series would stay at 0.
type lessIdle struct{ prometheus.Registerer }

// Register implements [prometheus.Registerer].
func (r lessIdle) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 1)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	idle := false
	for d := range descs {
		idle = idle || strings.Contains(d.String(), `fqName: "libp2p_rcmgr_`)
	}
	if idle {
		return nil
	}
	return r.Registerer.Register(c)
}
