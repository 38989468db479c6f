package host

import (
	"errors"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// socket is conn behind the turnstile. Of a UDP socket it leaves all that the QUIC
// library makes use of: batches, control messages, segments, sizes of buffers.
func (t *turnstile) socket(conn net.PacketConn) net.PacketConn {
	if udp, ok := conn.(*net.UDPConn); ok {
		return &udpSocket{UDPConn: udp, batch: ipv4.NewPacketConn(udp), turnstile: t}
	}
	return &packetSocket{PacketConn: conn, turnstile: t}
}

// udpSocket is one of the machine's.
type udpSocket struct {
	*net.UDPConn
	batch     *ipv4.PacketConn // the same; what it reads in a batch is of IPv6 too
	turnstile *turnstile
}

// ReadBatch is what the QUIC library reads by where there are control messages.
// It never returns 0 without an error.
func (s *udpSocket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		n, err := s.batch.ReadBatch(ms, flags)
		if n <= 0 || err != nil {
			return n, err
		}
		kept := 0
		for i := range ms[:n] {
			if s.turnstile.shut(ms[i].Addr) {
				s.turnAway(&ms[i])
				continue
			}
			if kept < i {
				moveMessage(&ms[kept], &ms[i])
			}
			kept++
		}
		if kept > 0 {
			return kept, nil
		}
	}
}

// moveMessage copies, for the reader knows each buffer by its place.
func moveMessage(to, from *ipv4.Message) {
	to.N = copy(to.Buffers[0], from.Buffers[0][:from.N])
	to.NN = copy(to.OOB, from.OOB[:from.NN])
	to.Addr, to.Flags = from.Addr, from.Flags
}

func (s *udpSocket) turnAway(m *ipv4.Message) {
	if answer := s.turnstile.refuse(m.Buffers[0][:m.N], m.Addr); answer != nil {
		_, _, _ = s.WriteMsgUDP(answer, fromWhere(m.OOB[:m.NN]), m.Addr.(*net.UDPAddr)) // it may be lost
	}
}

// fromWhere has an answer leave from the address that the packet with these
// control messages came to; nil where they do not say.
func fromWhere(oob []byte) []byte {
	var v4 ipv4.ControlMessage
	if err := v4.Parse(oob); err == nil && v4.Dst != nil {
		return (&ipv4.ControlMessage{Src: v4.Dst, IfIndex: v4.IfIndex}).Marshal()
	}
	var v6 ipv6.ControlMessage
	if err := v6.Parse(oob); err == nil && v6.Dst != nil {
		return (&ipv6.ControlMessage{Src: v6.Dst, IfIndex: v6.IfIndex}).Marshal()
	}
	return nil
}

// ReadFrom is what the QUIC library reads by elsewhere.
func (s *udpSocket) ReadFrom(p []byte) (int, net.Addr, error) {
	return s.turnstile.readFrom(s.UDPConn, p)
}

// packetSocket is one of a simulated network.
type packetSocket struct {
	net.PacketConn
	turnstile *turnstile
}

// SetReadBuffer and SetWriteBuffer are what the QUIC library asks of a socket,
// and complains of in the log where it has none.
func (s *packetSocket) SetReadBuffer(n int) error {
	if b, ok := s.PacketConn.(interface{ SetReadBuffer(int) error }); ok {
		return b.SetReadBuffer(n)
	}
	return errors.ErrUnsupported
}

func (s *packetSocket) SetWriteBuffer(n int) error {
	if b, ok := s.PacketConn.(interface{ SetWriteBuffer(int) error }); ok {
		return b.SetWriteBuffer(n)
	}
	return errors.ErrUnsupported
}

// ReadFrom implements [net.PacketConn].
func (s *packetSocket) ReadFrom(p []byte) (int, net.Addr, error) {
	return s.turnstile.readFrom(s.PacketConn, p)
}

func (t *turnstile) readFrom(conn net.PacketConn, p []byte) (int, net.Addr, error) {
	for {
		n, from, err := conn.ReadFrom(p)
		if err != nil || !t.shut(from) {
			return n, from, err
		}
		if answer := t.refuse(p[:n], from); answer != nil {
			_, _ = conn.WriteTo(answer, from) // it may be lost
		}
	}
}
