package attack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"
)

// E6 and E11: peers of a victim flood it, with messages that are invalid or with
// other things. Each bad peer behaves as a peer does otherwise, and comes back
// when it is cut.

const (
	victimPeers = 10
	floodFar    = 4                      // honest nodes that publish and are no peers of the victim
	floodCost   = 200 * time.Microsecond // of judging, of the one core that a node has
	cleanFor    = 12 * time.Second
	cutWithin   = 5 * time.Second
)

// What a flood is of.
const (
	floodInvalid   = ""          // messages with a wrong signature: E6
	floodValid     = "valid"     // ones that every node takes and relays
	floodOversized = "oversized" // ones far over the limit of the topic
	floodMalformed = "malformed" // frames that are no RPC
)

const oversized = 64 << 10 // bytes; the topic of ours takes 1 KiB

// floodLine is a row of E6 or E11.
type floodLine struct {
	what   string
	bad    int // of the victim's peers
	rate   int // messages a second of all bad peers together
	during time.Duration

	peers, far int // of the victim, and nodes that publish; 0 = victimPeers, floodFar
}

// size is how many peers the victim has, and how many others publish.
func (f floodLine) size() (peers, far int) {
	return cmp.Or(f.peers, victimPeers), cmp.Or(f.far, floodFar)
}

// floodResult is what came of one run.
type floodResult struct {
	clean, flood         []time.Duration // of good messages to the victim, in order
	wantClean, wantFlood int
	sent, judged         int             // bad messages: written to a stream; judged by the victim
	cuts                 []time.Duration // from the first to the last that was judged, of each bad peer
	uncut                int             // bad peers that were still judged in the last seconds
	still                int             // bad peers that were connected when the flood ended
	back                 int             // times that bad peers came back and were let in
}

// flooded runs one line.
func flooded(t *testing.T, k meshKind, f floodLine, seed uint64) (res floodResult) {
	t.Helper()
	inMesh(t, k, seed, func(l *meshLab) {
		l.cost = floodCost
		peers, others := f.size()
		v := l.node()
		var near, far []*meshNode
		for range peers - f.bad {
			near = append(near, l.node())
			v.dial(near[len(near)-1].Host)
		}
		for range others {
			far = append(far, l.node())
		}
		for i, n := range slices.Concat(near, far) {
			for _, j := range l.rand.Perm(len(near))[:min(3, len(near))] {
				if j != i {
					n.dial(near[j].Host)
				}
			}
		}
		var bad []*flooder
		for range f.bad {
			bad = append(bad, l.flooder(v.Host, f.what))
		}
		time.Sleep(5 * time.Second) // meshes
		tr := l.talk(far, 0, 50*time.Millisecond, cleanFor)
		time.Sleep(5 * time.Second)
		res.clean, res.wantClean = tr.arrivals(v)

		began := time.Now()
		for _, b := range bad {
			l.running.Go(func() { b.flood(f.rate, f.bad, began.Add(f.during)) })
		}
		tr = l.talk(far, 1<<20, 50*time.Millisecond, f.during)
		end := time.Now()
		for _, b := range bad {
			if v.Network().Connectedness(b.ID()) == network.Connected {
				res.still++
			}
		}
		time.Sleep(10 * time.Second)
		res.flood, res.wantFlood = tr.arrivals(v)
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, b := range bad {
			res.sent += b.sent
			res.back += b.back
			j := v.bad[b.ID()]
			switch {
			case j == nil:
			case j.last.After(end.Add(-cutWithin)):
				res.uncut++
				res.judged += j.n
			default:
				res.cuts = append(res.cuts, j.last.Sub(j.first))
				res.judged += j.n
			}
		}
	})
	return res
}

// flooder is a bad peer, which speaks pubsub by hand.
type flooder struct {
	host.Host
	l      *meshLab
	to     host.Host
	dial   func(ctx context.Context) error
	stream network.Stream
	what   string
	sent   int
	back   int
	number uint64
}

func (l *meshLab) flooder(to host.Host, what string) *flooder {
	h := l.host(libp2p.ResourceManager(&network.NullResourceManager{}))
	h.SetStreamHandler(pubsub.GossipSubID_v12, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
	greet := l.greeter(h)
	f := &flooder{Host: h, l: l, to: to, what: what, number: uint64(l.hosts) << 32}
	f.dial = func(ctx context.Context) error { return meshDial(ctx, h, greet, to) }
	meshMust(l.t, f.open())
	return f
}

// open connects and takes part in the topic.
func (f *flooder) open() error {
	if err := f.dial(f.l.ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.l.ctx, 10*time.Second)
	defer cancel()
	s, err := f.NewStream(network.WithNoDial(ctx, "flood"), f.to.ID(), pubsub.GossipSubID_v12)
	if err != nil {
		return err
	}
	f.stream = s
	return f.write(&pb.RPC{
		Subscriptions: []*pb.RPC_SubOpts{{Subscribe: new(true), Topicid: new(meshTopic)}},
		Control:       &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: new(meshTopic)}}},
	})
}

func (f *flooder) write(rpc *pb.RPC) error {
	b, err := proto.Marshal(rpc)
	if err != nil {
		return err
	}
	return f.frame(b)
}

func (f *flooder) frame(b []byte) error {
	_ = f.stream.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err := f.stream.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	return err
}

// message is the next one, signed where the network wants that.
func (f *flooder) message() *pb.Message {
	f.number++
	m := &pb.Message{Topic: new(meshTopic), Data: meshBad(f.number)}
	switch f.what {
	case floodValid:
		m.Data = f.l.good(f.number)
	case floodOversized:
		m.Data = append(m.Data, make([]byte, oversized)...)
	}
	if f.l.kind == meshOurs {
		return m
	}
	m.From, m.Seqno = []byte(f.ID()), binary.BigEndian.AppendUint64(nil, f.number)
	b, err := proto.Marshal(m)
	if err == nil {
		m.Signature, err = f.Peerstore().PrivKey(f.ID()).Sign(append([]byte("libp2p-pubsub:"), b...))
	}
	if err != nil {
		panic(err) // its own key
	}
	return m
}

// flood sends its share of rate until then. Cut off it comes back a second
// later.
func (f *flooder) flood(rate, of int, until time.Time) {
	each, tick := 1, time.Duration(of)*time.Second/time.Duration(rate)
	for tick < 10*time.Millisecond {
		each, tick = 2*each, 2*tick
	}
	for time.Now().Before(until) {
		err := f.say(each)
		if err == nil {
			f.sent += each
			if !f.l.rest(tick) {
				return
			}
			continue
		}
		for time.Now().Before(until) {
			if !f.l.rest(time.Second) {
				return
			}
			if f.open() == nil {
				f.back++
				break
			}
		}
	}
}

// say sends n messages at once, or as many bytes that are none.
func (f *flooder) say(n int) error {
	if f.what == floodMalformed {
		return f.frame(bytes.Repeat([]byte{0xff}, 64*n))
	}
	rpc := &pb.RPC{}
	for range n {
		rpc.Publish = append(rpc.Publish, f.message())
	}
	return f.write(rpc)
}
