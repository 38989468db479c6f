//go:build attack

package attack

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// node is somebody who can be in the book.
type node struct {
	id     peer.ID
	addr   ma.Multiaddr
	ip     netip.Addr
	group  string
	honest bool
	online bool // whether it answers a dial; the attacker always does
}

// world is who there is.
type world struct {
	honest, bad []*node
	by          map[peer.ID]*node
	next        int // of bad, to be told of
}

const (
	honestGroups = 2000
	badGroups    = 3000   // from here on
	sourceGroups = 28_000 // from here on
)

// newWorld draws who is where and who is online.
func newWorld(r *rand.Rand, s strength, f flaw) *world {
	w := &world{by: map[peer.ID]*node{}}
	for i := range honestPeers {
		p := &node{id: fakeID(uint64(i)), ip: publicIP(r.IntN(honestGroups), i+1), honest: true, online: r.Float64() < newOnline}
		if i < triedPeers {
			p.online = r.Float64() < triedOnline
		}
		w.honest = append(w.honest, p)
	}
	groups := s.groups
	if f == noGroups {
		groups = s.addrs
	}
	for i := range s.addrs {
		w.bad = append(w.bad, &node{id: fakeID(1<<32 + uint64(i)), ip: publicIP(badGroups+i%groups, i/groups+1), online: true})
	}
	for _, list := range [][]*node{w.honest, w.bad} {
		for _, p := range list {
			p.addr = ma.StringCast(fmt.Sprintf("/ip4/%s/tcp/9906", p.ip))
			p.group = fmt.Sprintf("4:%d.%d", p.ip.As4()[0], p.ip.As4()[1])
			w.by[p.id] = p
		}
	}
	r.Shuffle(len(w.bad), func(i, j int) { w.bad[i], w.bad[j] = w.bad[j], w.bad[i] })
	return w
}

// publicIP is host n of a public /16.
func publicIP(group, n int) netip.Addr {
	first := 11 + group/256
	for _, skip := range []int{100, 127, 169, 172, 192, 198, 203} { // not all of them is public
		if first >= skip {
			first++
		}
	}
	return netip.AddrFrom4([4]byte{byte(first), byte(group), byte(n >> 8), byte(n)})
}

func fakeID(n uint64) peer.ID {
	b := binary.BigEndian.AppendUint64([]byte{0, 36, 8, 1, 18, 32}, n) // identity multihash of an ed25519 key
	var id peer.ID
	if err := id.UnmarshalBinary(append(b, make([]byte, 24)...)); err != nil {
		panic(err)
	}
	return id
}
