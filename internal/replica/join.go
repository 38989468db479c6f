package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	protocolGenesis = "/parley/genesis/1"
	maxGenesis      = 256 << 10        // bytes, INTERFACES 7
	genesisTimeout  = 10 * time.Second // for one peer
	settleTime      = 2 * time.Second  // after the first answer, for others to disagree
	ordinalPatience = 30 * time.Second // bootstrap = ordinal-0: how long a chain may still turn up
	emptyPatience   = 30 * time.Second // before the operator is told that nobody has a chain
)

func (r *Replica) walDir() string { return filepath.Join(r.cfg.DataDir, "wal") }

// readGenesis reads a genesis file, in its JSON view.
func readGenesis(path string) (*consortium.Genesis, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, &StartError{fmt.Sprintf("consortium.genesis_file: %v", err)}
	}
	g, err := consortium.ParseGenesisJSON(b)
	if err != nil {
		return nil, &StartError{fmt.Sprintf("consortium.genesis_file %s: %v", path, err)}
	}
	return g, nil
}

// join learns the chain from the peers and stores its genesis. Nothing pinned
// means trust on first use of those that PEERS names, and of bootstrap peers:
// all that answer within a short while must agree.
func (r *Replica) join(ctx context.Context, s chain.Services) error {
	r.bus.Publish(event.SyncChanged{State: "waiting"})
	sub := r.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	asked := map[peer.ID]*consortium.Genesis{}
	started := time.Now()
	warned := false
	var first time.Time
	for {
		empty := r.ask(ctx, s, asked)
		if first.IsZero() && len(asked) > 0 {
			first = time.Now()
		}
		waited := time.Since(started)
		switch {
		case len(asked) > 0:
			all := r.cfg.Static > 0 && empty+len(asked) >= r.cfg.Static
			if all || r.pinned() || time.Since(first) >= settleTime {
				return r.adopt(s, asked)
			}
		case r.cfg.Chain.Bootstrap == "ordinal-0" && r.mayBootstrap() && !r.pinned() && waited >= ordinalPatience:
			g, err := r.makeGenesis()
			if err != nil {
				return err
			}
			return r.settle(g)
		case empty > 0 && waited >= emptyPatience && !warned:
			warned = true
			r.log.Warn("no peer has a chain: start one of them with empty PEERS, or give all the same consortium.genesis_file", "peers", empty, "code", "PLY-505")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sub.Wake():
			sub.Take(eventsAtOnce)
		case <-tick.C:
		}
	}
}

// ask fetches the genesis of each peer that has not answered yet, and counts
// those that have none. Whoever dials in may be anybody: without a pin only the
// peers that we were told of are asked.
func (r *Replica) ask(ctx context.Context, s chain.Services, asked map[peer.ID]*consortium.Genesis) (empty int) {
	for _, p := range s.Peers() {
		if _, done := asked[p.ID]; done || !p.Kept && !p.Named && !r.pinned() {
			continue
		}
		if p.Genesis.IsZero() {
			empty++
			continue
		}
		g, err := r.fetchGenesis(ctx, s, p)
		if err != nil {
			r.log.Debug("no genesis from peer", "peer", p.ID, "err", err)
			continue
		}
		asked[p.ID] = g
	}
	return empty
}

// networkHead is the highest head that the peers speak of which gave us the
// genesis. A validator of the genesis whose store is younger than that was
// rebuilt, and waits with its vote.
func networkHead(s chain.Services, asked map[peer.ID]*consortium.Genesis) uint64 {
	head := uint64(0)
	for _, p := range s.Peers() {
		if asked[p.ID] != nil {
			head = max(head, p.Claimed.Height)
		}
	}
	return head
}

func (r *Replica) pinned() bool { return r.cfg.Chain.GenesisHash != "" }

// fetchGenesis asks one peer and believes it only as far as the hash goes
// that it told in the handshake.
func (r *Replica) fetchGenesis(ctx context.Context, s chain.Services, p chain.Peer) (*consortium.Genesis, error) {
	ctx, cancel := context.WithTimeout(ctx, genesisTimeout)
	defer cancel()
	st, err := s.Open(ctx, p.ID, protocolGenesis)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", protocolGenesis, err)
	}
	raw, err := readGenesisAnswer(st)
	if err != nil {
		_ = st.Reset()
		return nil, err
	}
	_ = st.Close()
	g, err := consortium.DecodeGenesis(raw)
	if err != nil {
		s.Report(p.ID, chain.Malformed, "genesis: "+err.Error())
		return nil, err
	}
	if g.Hash() != p.Genesis {
		s.Report(p.ID, chain.FalseClaim, "its genesis has another hash than it told")
		return nil, fmt.Errorf("genesis has hash %s, the peer told %s", g.Hash(), p.Genesis)
	}
	return g, r.checkPin(g.ChainID, g.Hash())
}

func readGenesisAnswer(st chain.Stream) ([]byte, error) {
	if err := st.SetDeadline(time.Now().Add(genesisTimeout)); err != nil {
		return nil, err
	}
	if err := wire.WriteFrame(st, nil); err != nil {
		return nil, fmt.Errorf("ask for the genesis: %w", err)
	}
	if err := st.CloseWrite(); err != nil {
		return nil, fmt.Errorf("ask for the genesis: %w", err)
	}
	return wire.ReadFrame(st, maxGenesis)
}

// agree returns the one genesis that all peers gave, or says who gave which.
func agree(answers map[peer.ID]*consortium.Genesis) (*consortium.Genesis, error) {
	var g *consortium.Genesis
	var lines []string
	differ := false
	for id, a := range answers {
		lines = append(lines, fmt.Sprintf("%s has %s %s", id, a.ChainID, a.Hash()))
		if g != nil && g.Hash() != a.Hash() {
			differ = true
		}
		g = a
	}
	if differ {
		slices.Sort(lines)
		return nil, &StartError{"the peers are of different chains; pin one with consortium.genesis_hash: " + strings.Join(lines, "; ")}
	}
	return g, nil
}

// adopt stores the genesis that all gave. The network's head goes first: a node
// that is killed in between joins anew.
func (r *Replica) adopt(s chain.Services, asked map[peer.ID]*consortium.Genesis) error {
	g, err := agree(asked)
	if err != nil {
		return err
	}
	if err := r.ledger.SetBorn(networkHead(s, asked)); err != nil {
		return err
	}
	if r.pinned() {
		r.log.Info("chain joined", "chain_id", g.ChainID, "genesis", g.Hash())
	} else {
		r.log.Warn("chain joined on first use; pin it with consortium.genesis_hash", "chain_id", g.ChainID, "genesis", g.Hash(), "peers", len(asked))
	}
	return r.settle(g)
}

// serveGenesis answers a joiner.
func (w *running) serveGenesis(_ context.Context, st chain.Stream) error {
	if _, err := wire.ReadFrame(st, 16); err != nil && !errors.Is(err, io.EOF) {
		return wire.Fault(err)
	}
	return wire.WriteFrame(st, w.genesis.Encode())
}
