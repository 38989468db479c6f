package replica

import (
	"context"
	"errors"
	"fmt"
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
// means trust on first use: all that answer within a short while must agree.
func (r *Replica) join(ctx context.Context, s chain.Services) error {
	r.bus.Publish(event.SyncChanged{State: "waiting"})
	sub := r.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	asked := map[peer.ID]*consortium.Genesis{}
	started := time.Now()
	var first time.Time
	for {
		for _, p := range s.Peers() {
			if _, done := asked[p.ID]; done || p.Genesis.IsZero() {
				continue
			}
			g, err := r.fetchGenesis(ctx, s, p)
			if err != nil {
				r.log.Debug("no genesis from peer", "peer", p.ID, "err", err)
				continue
			}
			asked[p.ID] = g
			if first.IsZero() {
				first = time.Now()
			}
		}
		if !first.IsZero() && (r.pinned() || time.Since(first) >= settleTime) {
			g, err := agree(asked)
			if err != nil {
				return err
			}
			if err := r.adopt(g, asked); err != nil {
				return err
			}
			return r.ledger.SetBorn(networkHead(s))
		}
		if first.IsZero() && r.cfg.Chain.Bootstrap == "ordinal-0" && r.mayBootstrap() && !r.pinned() && time.Since(started) >= ordinalPatience {
			g, err := r.makeGenesis()
			if err != nil {
				return err
			}
			return r.settle(g)
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

// networkHead is the highest head that a peer speaks of. A validator of the
// genesis whose store is younger than that was rebuilt, and waits with its vote.
func networkHead(s chain.Services) uint64 {
	head := uint64(0)
	for _, p := range s.Peers() {
		head = max(head, p.Claimed.Height)
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

func (r *Replica) adopt(g *consortium.Genesis, from map[peer.ID]*consortium.Genesis) error {
	if r.pinned() {
		r.log.Info("chain joined", "chain_id", g.ChainID, "genesis", g.Hash())
	} else {
		r.log.Warn("chain joined on first use; pin it with consortium.genesis_hash", "chain_id", g.ChainID, "genesis", g.Hash(), "peers", len(from))
	}
	return r.settle(g)
}

// serveGenesis answers a joiner.
func (w *running) serveGenesis(_ context.Context, st chain.Stream) error {
	if _, err := wire.ReadFrame(st, 16); err != nil && !errors.Is(err, errEOF) {
		return wire.Fault(err)
	}
	return wire.WriteFrame(st, w.genesis.Encode())
}
