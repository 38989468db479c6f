package discovery

import (
	"sync"

	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	groupInBucket = 2 // peers of one address group
	groupInTable  = 3
)

// diversity keeps the table of the DHT from being filled by one address group.
// Groups are those of the address book, for the library takes all IPv6 of an
// unknown network as one. Peers without a public address pass: nodes of one LAN
// share theirs.
type diversity struct {
	d *Discovery

	mu       sync.Mutex // guards below
	members  map[peer.ID]member
	inTable  map[string]int
	inBucket map[bucketGroup]int
}

type member struct {
	group string
	cpl   int
}

type bucketGroup struct {
	cpl   int
	group string
}

func newDiversity(d *Discovery) *diversity {
	return &diversity{d: d, members: map[peer.ID]member{}, inTable: map[string]int{}, inBucket: map[bucketGroup]int{}}
}

// PeerAddresses gives one address, so that the other methods are called once a
// peer: a public one if it has any.
func (f *diversity) PeerAddresses(p peer.ID) []ma.Multiaddr {
	var any []ma.Multiaddr
	for _, c := range f.d.host.Network().ConnsToPeer(p) {
		a := c.RemoteMultiaddr()
		switch ip := addrbook.IP(a); {
		case !ip.IsValid():
		case addrbook.Public(ip):
			return []ma.Multiaddr{a}
		default:
			any = []ma.Multiaddr{a}
		}
	}
	return any
}

// Allow implements [peerdiversity.PeerIPGroupFilter], as do those below.
func (f *diversity) Allow(g peerdiversity.PeerGroupInfo) bool {
	group := f.d.liveGroup(g.Id)
	if group == "" || !f.d.rules.diversity {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inTable[group] < groupInTable && f.inBucket[bucketGroup{g.Cpl, group}] < groupInBucket
}

func (f *diversity) Increment(g peerdiversity.PeerGroupInfo) {
	group := f.d.liveGroup(g.Id)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.members[g.Id]; known || group == "" {
		return
	}
	f.members[g.Id] = member{group: group, cpl: g.Cpl}
	f.inTable[group]++
	f.inBucket[bucketGroup{g.Cpl, group}]++
}

func (f *diversity) Decrement(g peerdiversity.PeerGroupInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, known := f.members[g.Id]
	if !known {
		return
	}
	delete(f.members, g.Id)
	b := bucketGroup{m.cpl, m.group}
	if f.inTable[m.group]--; f.inTable[m.group] == 0 {
		delete(f.inTable, m.group)
	}
	if f.inBucket[b]--; f.inBucket[b] == 0 {
		delete(f.inBucket, b)
	}
}
