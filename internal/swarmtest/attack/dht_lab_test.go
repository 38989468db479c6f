//go:build attack

package attack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/internal/wire"
)

// Two DHTs on the same hosts: in one no table has limits by address group, as
// dht.New makes it; in the other each has those of dual.New and of ours.
const (
	openPrefix    = "/open"
	limitedNet    = "0123abcd"
	limitedPrefix = "/parley/" + limitedNet
	kadSuffix     = "/kad/1.0.0"
	bucketPeers   = 20
	bucketGroup   = 2
	tableGroup    = 3
)

// router is a host that serves both DHTs. Its table is that of a converged
// network, drawn beforehand.
type router struct {
	host    host.Host
	kad     kb.ID
	addr    []byte
	group   string
	open    []*router
	limited []*router
	// lies makes the peers that it names instead of its own; nil = it is honest.
	lies func(key string, target kb.ID) []*pb.Message_Peer
	// forgets: it stores no value and gives none.
	forgets bool
}

// dhtLab is one bubble with a DHT.
type dhtLab struct {
	*lab
	routers []*router

	mu     sync.Mutex                    // guards below
	asked  map[string]map[peer.ID]int    // questions by key, at who was asked
	values map[string]map[*router][]byte // stored, by key
}

// inBubble runs an experiment in virtual time.
func inBubble(t *testing.T, seed uint64, do func(l *lab)) {
	t.Helper()
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &lab{t: t, ctx: ctx, rand: mrand.New(mrand.NewPCG(seed, 2))}
		delays := mrand.New(mrand.NewPCG(seed, 3))
		l.nw = &simnet.Simnet{LatencyFunc: func(*simnet.Packet) time.Duration { // one goroutine calls it
			return time.Duration(10+delays.IntN(70)) * time.Millisecond
		}}
		l.nw.Start()
		defer func() { // after a Fatal too, or the bubble would complain instead
			cancel()
			l.running.Wait()
			for _, c := range slices.Backward(l.closers) {
				c()
			}
			time.Sleep(time.Minute) // QUIC drains
			l.nw.Close()
		}()
		do(l)
	})
}

// newDHT makes n routers, each in an address group of its own, without tables.
func newDHT(l *lab, n int) *dhtLab {
	d := &dhtLab{lab: l, asked: map[string]map[peer.ID]int{}, values: map[string]map[*router][]byte{}}
	for i := range n {
		d.routers = append(d.routers, d.router(l.host(publicIP(i, 1))))
	}
	return d
}

func (d *dhtLab) router(h host.Host) *router {
	r := &router{host: h, kad: kb.ConvertPeerID(h.ID()), addr: h.Addrs()[0].Bytes()}
	ip, _ := netip.ParseAddr(must1(h.Addrs()[0].ValueForProtocol(ma.P_IP4)))
	r.group = fmt.Sprintf("%d.%d", ip.As4()[0], ip.As4()[1])
	h.SetStreamHandler(protocol.ID(openPrefix+kadSuffix), func(s network.Stream) { d.serve(r, s, func() []*router { return r.open }) })
	h.SetStreamHandler(protocol.ID(limitedPrefix+kadSuffix), func(s network.Stream) { d.serve(r, s, func() []*router { return r.limited }) })
	return r
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fill draws the tables of all routers.
func (d *dhtLab) fill() {
	for _, r := range d.routers {
		order := slices.Clone(d.routers)
		d.rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		r.open, r.limited = nil, nil
		free, bound := map[int]int{}, map[int]int{}
		table, bucket := map[string]int{}, map[string]int{}
		for _, o := range order {
			if o == r {
				continue
			}
			cpl := kb.CommonPrefixLen(r.kad, o.kad)
			if free[cpl] < bucketPeers {
				free[cpl]++
				r.open = append(r.open, o)
			}
			b := fmt.Sprint(o.group, " ", cpl)
			if bound[cpl] < bucketPeers && bucket[b] < bucketGroup && table[o.group] < tableGroup {
				bound[cpl]++
				bucket[b]++
				table[o.group]++
				r.limited = append(r.limited, o)
			}
		}
	}
}

// nearest gives the 20 of a list that are nearest to a target.
func nearestOf(list []*router, target kb.ID) []*router {
	type far struct {
		r *router
		d []byte
	}
	all := make([]far, len(list))
	for i, r := range list {
		all[i] = far{r, distance(r.kad, target)}
	}
	slices.SortFunc(all, func(a, b far) int { return bytes.Compare(a.d, b.d) })
	var out []*router
	for _, f := range all[:min(len(all), bucketPeers)] {
		out = append(out, f.r)
	}
	return out
}

func distance(a, b kb.ID) []byte {
	d := make([]byte, len(a))
	for i := range a {
		d[i] = a[i] ^ b[i]
	}
	return d
}

func tell(list []*router) (out []*pb.Message_Peer) {
	for _, r := range list {
		out = append(out, &pb.Message_Peer{Id: []byte(r.host.ID()), Addrs: [][]byte{r.addr}})
	}
	return out
}

// serve answers the questions of one stream.
func (d *dhtLab) serve(r *router, s network.Stream, table func() []*router) {
	defer s.Close()
	for {
		_ = s.SetDeadline(time.Now().Add(time.Minute))
		b, err := wire.ReadFrame(s, 1<<20)
		if errors.Is(err, io.EOF) {
			return
		}
		var m pb.Message
		if err != nil || proto.Unmarshal(b, &m) != nil {
			_ = s.Reset()
			return
		}
		d.answer(r, s.Conn().RemotePeer(), &m, table)
		if wire.WriteFrame(s, must1(proto.Marshal(&m))) != nil {
			return
		}
	}
}

func (d *dhtLab) answer(r *router, from peer.ID, m *pb.Message, table func() []*router) {
	key := string(m.GetKey())
	switch m.GetType() {
	case pb.Message_PUT_VALUE:
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.values[key] == nil {
			d.values[key] = map[*router][]byte{}
		}
		if !r.forgets {
			d.values[key][r] = m.GetRecord().GetValue()
		}
	case pb.Message_FIND_NODE, pb.Message_GET_VALUE:
		target := kb.ConvertKey(key)
		if r.lies != nil {
			m.CloserPeers = r.lies(key, target)
		} else {
			m.CloserPeers = tell(nearestOf(table(), target))
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.asked[key] == nil {
			d.asked[key] = map[peer.ID]int{}
		}
		d.asked[key][r.host.ID()]++
		if v := d.values[key][r]; v != nil && !r.forgets && m.GetType() == pb.Message_GET_VALUE {
			m.Record = &recpb.Record{Key: m.GetKey(), Value: v}
		}
	}
}

// take gives the questions that were asked for a key, and forgets them.
func (d *dhtLab) take(key string) (by map[peer.ID]int, all int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	by = d.asked[key]
	delete(d.asked, key)
	for _, n := range by {
		all += n
	}
	return by, all
}

// forget takes the value of a key off all routers, and says how many honest
// ones had it.
func (d *dhtLab) forget(key string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.values[key])
	delete(d.values, key)
	return n
}

// inventor lies by peers that are not there, 20 for each key, near it.
func inventor(seed uint64) func(string, kb.ID) []*pb.Message_Peer {
	var mu sync.Mutex
	known := map[string][]*pb.Message_Peer{}
	r := mrand.New(mrand.NewPCG(seed, 6))
	return func(key string, target kb.ID) []*pb.Message_Peer {
		mu.Lock()
		defer mu.Unlock()
		if known[key] == nil {
			for i := range bucketPeers {
				id := randomID(r)
				for kb.CommonPrefixLen(kb.ConvertPeerID(id), target) < 7 {
					id = randomID(r)
				}
				addr := listenAt(publicIP(4000+r.IntN(10_000), 1+i))
				known[key] = append(known[key], &pb.Message_Peer{Id: []byte(id), Addrs: [][]byte{addr.Bytes()}})
			}
		}
		return known[key]
	}
}

// randomID is the id of a key that nobody has.
func randomID(r *mrand.Rand) peer.ID {
	b := []byte{0, 36, 8, 1, 18, 32}
	for range 4 {
		b = binary.BigEndian.AppendUint64(b, r.Uint64())
	}
	return peer.ID(b)
}
