package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	libnetwork "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	librecord "github.com/libp2p/go-libp2p/core/record"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	statusProtocol  protocol.ID = "/parley/status/1"
	goodbyeProtocol protocol.ID = "/parley/goodbye/1"
)

// order is what a test has one of the crowd do.
type order struct {
	Seq    uint64
	Do     string // come | leave | list | tell | asked | gossip
	Name   string
	From   string       // its address
	Listen int          // port to be dialled at, 0 = none
	To     string       // come: whom to dial, with id; "" = only be there
	Status chain.Status // what it says of itself
	PEX    string       // protocol of peer exchange that it answers
	Tell   tale         // what it answers there from now on
	Topic  string       // gossip: where it sends Data, on the connection with To
	Data   []byte
}

// tale is what one of the crowd tells of others.
type tale struct {
	Of      []string // names of the crowd: their own true records
	Records int      // and so many of peers that do not exist
	Addrs   int      // addresses in each of these
	Kind    string   // "" = as they should be; private | forged | huge
	Close   bool     // leave after the answer
}

// outcome is what became of an order.
type outcome struct {
	Seq     uint64
	Err     string
	ID      peer.ID        `json:",omitempty"` // an empty one cannot be read back
	Code    uint32         // of the verack
	Text    string         // of it, else of the goodbye
	Goodbye uint64         // heard, 0 = none
	Still   map[string]int // list: how many connections each has
	Bye     map[string]uint64
	Asked   int // how often it was asked for peers
}

// crowd is a program in a namespace, and the way to it.
type crowd struct {
	t    *testing.T
	in   io.WriteCloser
	cmd  *exec.Cmd
	mu   sync.Mutex
	seq  uint64
	wait map[uint64]chan outcome
}

func newCrowd(t *testing.T, space string) *crowd {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", space, os.Args[0], "-")
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE=crowd")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &crowd{t: t, in: in, cmd: cmd, wait: map[uint64]chan outcome{}}
	go func() {
		for dec := json.NewDecoder(out); ; {
			var o outcome
			if dec.Decode(&o) != nil {
				return
			}
			c.mu.Lock()
			ch := c.wait[o.Seq]
			delete(c.wait, o.Seq)
			c.mu.Unlock()
			if ch != nil {
				ch <- o
			}
		}
	}()
	return c
}

// ask gives an order and waits for what becomes of it.
func (c *crowd) ask(o order) outcome {
	c.t.Helper()
	ch := make(chan outcome, 1)
	c.mu.Lock()
	c.seq++
	o.Seq = c.seq
	c.wait[o.Seq] = ch
	err := json.NewEncoder(c.in).Encode(o)
	c.mu.Unlock()
	if err != nil {
		c.t.Errorf("order to the crowd: %v", err)
		return outcome{Err: err.Error()}
	}
	select {
	case out := <-ch:
		return out
	case <-time.After(soon):
		c.t.Errorf("the crowd does not answer to %+v", o)
		return outcome{Err: "no answer"}
	}
}

// all gives orders at once, a few at a time, and returns their outcomes in the
// same order.
func (c *crowd) all(orders []order) []outcome {
	c.t.Helper()
	out := make([]outcome, len(orders))
	var wg sync.WaitGroup
	turns := make(chan struct{}, 6)
	for i, o := range orders {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			out[i] = c.ask(o)
		})
	}
	wg.Wait()
	return out
}

func (c *crowd) end() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// people is the crowd inside of its own program.
type people struct {
	mu sync.Mutex
	by map[string]*person
}

// person is a light peer: it greets and is greeted, and stays.
type person struct {
	all    *people
	host   host.Host
	key    crypto.PrivKey
	status chain.Status
	byes   chan struct{} // of one

	mu    sync.Mutex // guards below
	bye   wire.Goodbye
	tale  tale
	asked int
}

// gather plays the crowd until stdin ends.
func gather() error {
	p := &people{by: map[string]*person{}}
	var mu sync.Mutex
	enc := json.NewEncoder(os.Stdout)
	for dec := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var o order
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		go func() {
			out := p.obey(o)
			out.Seq = o.Seq
			mu.Lock()
			defer mu.Unlock()
			_ = enc.Encode(out) // nobody listens any more
		}()
	}
}

func (p *people) obey(o order) (out outcome) {
	if o.Do == "list" {
		out.Still, out.Bye = map[string]int{}, map[string]uint64{}
		p.mu.Lock()
		defer p.mu.Unlock()
		for name, x := range p.by {
			out.Still[name] = len(x.host.Network().Conns())
			x.mu.Lock()
			out.Bye[name] = x.bye.Code
			x.mu.Unlock()
		}
		return out
	}
	x, err := p.person(o)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	out.ID = x.host.ID()
	switch o.Do {
	case "leave":
		p.mu.Lock()
		delete(p.by, o.Name)
		p.mu.Unlock()
		_ = x.host.Close()
	case "tell":
		x.mu.Lock()
		x.tale, out.Asked = o.Tell, x.asked
		x.mu.Unlock()
	case "asked":
		x.mu.Lock()
		out.Asked = x.asked
		x.mu.Unlock()
	case "gossip":
		if err := x.gossip(o); err != nil {
			out.Err = err.Error()
		}
	case "come":
		if o.To == "" {
			return out
		}
		ver, err := x.come(o.To)
		out.Code, out.Text = ver.Code, ver.Text
		if err != nil {
			out.Err = err.Error()
		}
		if err != nil || ver.Code != wire.VerackOK {
			select {
			case <-x.byes:
			case <-time.After(2 * time.Second): // the node waits for a second
			}
		}
		x.mu.Lock()
		out.Goodbye, out.Text = x.bye.Code, cmp.Or(out.Text, x.bye.Text)
		x.mu.Unlock()
	}
	return out
}

// person gives the one of that name, and makes it at first.
func (p *people) person(o order) (*person, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.by[o.Name]; x != nil {
		return x, nil
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	from, err := netip.ParseAddr(o.From)
	if err != nil {
		return nil, err
	}
	listen := libp2p.NoListenAddrs
	if o.Listen != 0 {
		listen = libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/%d", from, o.Listen))
	}
	src := net.IP(from.AsSlice())
	dialer := func(ma.Multiaddr) (tcp.ContextDialer, error) {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: src}}, nil
	}
	h, err := libp2p.New(libp2p.Identity(key), listen, libp2p.ResourceManager(&libnetwork.NullResourceManager{}), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.Transport(tcp.NewTCPTransport, tcp.WithDialerForAddr(dialer)), libp2p.Transport(quic.NewTransport),
		libp2p.QUICReuse(quicreuse.NewConnManager, quicreuse.OverrideListenUDP(func(network string, at *net.UDPAddr) (net.PacketConn, error) {
			return net.ListenUDP(network, &net.UDPAddr{IP: src, Port: at.Port})
		})))
	if err != nil {
		return nil, err
	}
	x := &person{all: p, host: h, key: key, status: o.Status, byes: make(chan struct{}, 1)}
	h.SetStreamHandler(statusProtocol, x.greeted)
	h.SetStreamHandler(goodbyeProtocol, x.parted)
	if o.PEX != "" {
		h.SetStreamHandler(protocol.ID(o.PEX), x.told)
	}
	p.by[o.Name] = x
	return x, nil
}

func (x *person) version() wire.Version {
	v := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "crowd/1", TimeMS: uint64(time.Now().UnixMilli()), Nonce: uint64(time.Now().UnixNano())}
	v.SetStatus(x.status)
	return v
}

// come dials a node and greets it.
func (x *person) come(to string) (wire.Verack, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	info, err := peer.AddrInfoFromString(to)
	if err != nil {
		return wire.Verack{}, err
	}
	if err := x.host.Connect(ctx, *info); err != nil {
		return wire.Verack{}, err
	}
	st, err := x.host.NewStream(libnetwork.WithNoDial(ctx, "status"), info.ID, statusProtocol)
	if err != nil {
		return wire.Verack{}, err
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(10 * time.Second))
	if err := wire.WriteFrame(st, x.version().Encode()); err != nil {
		return wire.Verack{}, err
	}
	b, err := wire.ReadFrame(st, wire.MaxVerack)
	if err != nil {
		return wire.Verack{}, err
	}
	return wire.DecodeVerack(b)
}

// gossip sends a message by hand.
func (x *person) gossip(o order) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	info, err := peer.AddrInfoFromString(o.To)
	if err != nil {
		return err
	}
	st, err := x.host.NewStream(libnetwork.WithNoDial(ctx, "gossip"), info.ID, "/meshsub/1.2.0")
	if err != nil {
		return err
	}
	b, err := proto.Marshal(&pb.RPC{Publish: []*pb.Message{{Topic: &o.Topic, Data: o.Data}}})
	if err != nil {
		return err
	}
	if err := wire.WriteFrame(st, b); err != nil {
		return err
	}
	return st.CloseWrite()
}

func (x *person) greeted(st libnetwork.Stream) {
	defer st.Close()
	b, err := wire.ReadFrame(st, wire.MaxVersion)
	if err == nil {
		_, err = wire.DecodeVersion(b)
	}
	if err != nil {
		_ = st.Reset()
		return
	}
	_ = wire.WriteFrame(st, wire.Verack{Version: x.version()}.Encode())
}

func (x *person) parted(st libnetwork.Stream) {
	defer st.Close()
	b, err := wire.ReadFrame(st, wire.MaxGoodbye)
	if err != nil {
		return
	}
	bye, err := wire.DecodeGoodbye(b)
	if err != nil {
		return
	}
	x.mu.Lock()
	x.bye = bye
	x.mu.Unlock()
	select {
	case x.byes <- struct{}{}:
	default:
	}
}

// told answers one request of peer exchange by the tale of the day.
func (x *person) told(st libnetwork.Stream) {
	defer st.Close()
	x.mu.Lock()
	t := x.tale
	x.mu.Unlock()
	if _, err := wire.ReadFrame(st, wire.MaxPEXRequest); err != nil {
		return
	}
	defer func() {
		x.mu.Lock()
		x.asked++
		x.mu.Unlock()
	}()
	if t.Kind == "huge" { // of 100,000 records
		_, _ = st.Write([]byte{0x80, 0x80, 0x80, 0x30}) // 100,663,296 bytes follow
		_, _ = st.Write(make([]byte, 1<<20))
		return
	}
	records, err := x.all.records(t)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	_ = wire.WriteFrame(st, wire.PEXAnswer{Records: records}.Encode())
	if t.Close {
		for range time.Tick(5 * time.Millisecond) { // the other side resets when it has read all
			if _, err := st.Write([]byte{0}); err != nil {
				break
			}
		}
		_ = st.Conn().Close()
	}
}

func (p *people) records(t tale) ([][]byte, error) {
	var list [][]byte
	for _, name := range t.Of {
		p.mu.Lock()
		x := p.by[name]
		p.mu.Unlock()
		b, err := seal(x.key, x.host.ID(), x.host.Addrs())
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	for range t.Records {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			return nil, err
		}
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			return nil, err
		}
		var addrs []ma.Multiaddr
		for range max(1, t.Addrs) {
			addrs = append(addrs, nowhere(t.Kind))
		}
		b, err := seal(key, id, addrs)
		if err != nil {
			return nil, err
		}
		if t.Kind == "forged" {
			b[len(b)-1] ^= 1
		}
		list = append(list, b)
	}
	return list, nil
}

// nowhere is an address where nobody is.
func nowhere(kind string) ma.Multiaddr {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	if kind == "private" {
		return ma.StringCast(fmt.Sprintf("/ip4/10.%d.%d.%d/tcp/%d", b[0], b[1], b[2], 1000+int(b[3])))
	}
	return ma.StringCast(fmt.Sprintf("/ip4/%d.%d.%d.%d/tcp/%d", 60+b[0]%20, b[1], b[2], b[3], 1000+int(b[4])))
}

func seal(key crypto.PrivKey, id peer.ID, addrs []ma.Multiaddr) ([]byte, error) {
	rec := peer.PeerRecordFromAddrInfo(peer.AddrInfo{ID: id, Addrs: addrs})
	env, err := librecord.Seal(rec, key)
	if err != nil {
		return nil, err
	}
	return env.Marshal()
}
