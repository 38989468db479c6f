package chainsync

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

// maxRun is how many verified headers may wait for their bodies: with
// certificates of 21 votes about 8 MiB.
const maxRun = 4096

// sealed is a header with its certificate, decoded and no more.
type sealed struct {
	header   *consortium.Header
	cert     consortium.Certificate
	subtrees []chain.Hash // of an announcement, else nil; they give the header's root
}

// unseal decodes both; what does not decode is charged.
func unseal(header, cert []byte) (sealed, error) {
	h, err := consortium.DecodeHeader(header)
	if err != nil {
		return sealed{}, chain.Invalid(chain.Malformed, "header: %v", err)
	}
	c, err := consortium.DecodeCertificate(cert)
	if err != nil {
		return sealed{}, chain.Invalid(chain.Malformed, "certificate of block %d: %v", h.Height, err)
	}
	return sealed{header: h, cert: c}, nil
}

func decodeHeaderAnswer(frame []byte) (sealed, error) {
	a, err := wire.DecodeHeaderAnswer(frame)
	if err != nil {
		return sealed{}, wire.Fault(err)
	}
	return unseal(a.Header, a.Certificate)
}

// link is a verified header above the tip, whose body we lack.
type link struct {
	sealed
	hash   chain.Hash
	prev   ledger.Tip // it was checked against this
	from   peer.ID    // who brought it
	gossip bool       // by an announcement
}

// run is the verified headers from the tip on, without a gap. It ends at a
// block that changes the config, until that block is in the ledger: then the
// change has been judged whole, with its approvals, and nothing is taken on
// the word of a peer. Methods take the ledger's tip and bring the run up to it.
type run struct {
	mu     sync.Mutex
	links  []link
	closed bool // links end at a config block
}

// settle drops what the ledger has passed. mu is held. It fails where the
// ledger went another way than the run: two certified blocks of one height.
func (r *run) settle(tip ledger.Tip) error {
	var err error
	n := 0
	for ; n < len(r.links) && r.links[n].header.Height <= tip.Head.Height; n++ {
		if l := r.links[n]; l.header.Height == tip.Head.Height && l.hash != tip.Head.Hash {
			err = &ledger.ForkError{Ours: tip.Header, Theirs: l.header, TheirsCert: l.cert}
		}
	}
	if n == 0 {
		return nil
	}
	clear(r.links[:n])
	r.links = r.links[n:]
	if len(r.links) == 0 || err != nil {
		r.links, r.closed = nil, false
	}
	return err
}

// top is what the next header has to follow. It is open while such a header
// can be judged and there is room for it.
func (r *run) top(tip ledger.Tip) (top ledger.Tip, open bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.settle(tip)
	if len(r.links) == 0 {
		return tip, true, err
	}
	last := r.links[len(r.links)-1]
	top, broken := last.prev.After(last.header, nil)
	if broken != nil { // the set changes: the head is known, what follows it is not
		top = last.prev
		top.Head, top.Header = chain.Head{Height: last.header.Height, Hash: last.hash}, last.header
	}
	return top, !r.closed && len(r.links) < maxRun, err
}

// at is the verified header of a height, if the run has it.
func (r *run) at(tip ledger.Tip, height uint64) (link, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.links) == 0 || height <= tip.Head.Height || height < r.links[0].header.Height {
		return link{}, false
	}
	i := height - r.links[0].header.Height
	if i >= uint64(len(r.links)) {
		return link{}, false
	}
	return r.links[i], true
}

// between lists the links of the heights [from, from+n).
func (r *run) between(from uint64, n int) []link {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.links) == 0 || from < r.links[0].header.Height {
		return nil
	}
	i := from - r.links[0].header.Height
	if i >= uint64(len(r.links)) {
		return nil
	}
	part := r.links[i:min(i+uint64(n), uint64(len(r.links)))]
	return append([]link(nil), part...)
}

// extend adds links that were verified on top of base, unless the run moved
// meanwhile. closed says that the last of them changes the config.
func (r *run) extend(tip ledger.Tip, base chain.Hash, links []link, closed bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settle(tip) != nil {
		return false
	}
	end := tip.Head.Hash
	if n := len(r.links); n > 0 {
		end = r.links[n-1].hash
	}
	if end != base {
		return false
	}
	r.links = append(r.links, links...)
	r.closed = r.closed || closed && len(r.links) > 0
	return true
}

// verify judges headers that claim to follow base, certificates on all
// processors. It returns the good ones before the first bad one. sure says
// that base is the ledger's own tip, whose config is in force beyond doubt.
// closed says that the config changes behind the last one returned: without
// that change nothing more can be judged.
func verify(base ledger.Tip, sure bool, headers []sealed, from peer.ID) (links []link, closed bool, err error) {
	tip := base
	for i, s := range headers {
		if (i > 0 || !sure) && s.header.Epoch == tip.Config.Epoch+1 && s.header.Height == tip.Head.Height+1 {
			closed = true
			// the set did not change, so this much can be told
			if bad := s.cert.Verify(s.header, tip.Set); bad != nil {
				closed, err = false, chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", s.header.Height, bad)
			}
			break
		}
		links = append(links, link{sealed: s, hash: s.header.Hash(), prev: tip, from: from})
		next, broken := tip.After(s.header, nil)
		if broken != nil {
			closed = true
			break
		}
		tip = next
	}
	errs := make([]error, len(links))
	parallel(len(links), func(i int) {
		errs[i] = ledger.CheckHeader(links[i].prev, links[i].header, links[i].cert)
	})
	for i, bad := range errs {
		if bad == nil {
			continue
		}
		var fork *ledger.ForkError
		switch {
		case errors.As(bad, &fork) && i > 0:
			fork.OursCert = links[i-1].cert
		case errors.Is(bad, chain.ErrOrphan):
			bad = chain.Invalid(chain.Violation, "header of block %d where %d was asked for", links[i].header.Height, links[i].prev.Head.Height+1)
		}
		return links[:i], false, fmt.Errorf("verify headers: %w", bad)
	}
	return links, closed, err
}

// parallel calls f for each i in [0, n).
func parallel(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
