// Package replica owns the consortium chain on this node: it joins or makes
// it, orders its records as a validator or follows it, and serves it.
package replica

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/mempool"
)

// Kind is the network's kind in the handshake.
const Kind = "consortium"

// Config is what the replica needs to know.
type Config struct {
	Chain       config.Consortium
	NetworkName string
	Name        string             // of this node: miner, and validator 1 of its own genesis
	Host        string             // host name, for bootstrap = "ordinal-0"
	Key         ed25519.PrivateKey // node key = validator key
	NewKey      bool               // made at this start: it never voted
	DataDir     string
	Static      int // how many peers PEERS names; above 0 an empty store waits for their chain
	Seeds       int // how many bootstrap peers and DNS names there are; above 0 it waits, too
	// SoleValidator lets this node vote although its write-ahead log is lost:
	// see [consensus.Config].
	SoleValidator bool
	Addresses     func() []multiaddr.Multiaddr // of this node, for its own genesis
	LedgerFS      vfs.FS                       // nil = the disk; else for virtual time
	MemoryWAL     *consensus.MemoryWAL         // nil = the disk; else for virtual time
	Clock         func() time.Time             // nil = time.Now; else for tests of wrong clocks
	Outgoing      consensus.Outgoing           // nil = honest; else for tests of traitors
	Tracer        trace.Tracer                 // nil = nothing is traced
	End           func()                       // ends the process where no error can be returned; nil = a panic
}

// A StartError is a fault of the configuration against what the data directory
// holds: the node must not start, and a restart will not help.
type StartError struct{ Text string }

func (e *StartError) Error() string { return e.Text }

// Replica implements [chain.Network].
type Replica struct {
	cfg  Config
	self consortium.PublicKey
	bus  *event.Bus
	base *slog.Logger // of every room in here
	log  *slog.Logger
	reg  prometheus.Registerer

	ledger   *ledger.Ledger
	findings *findings
	disk     *disk
	proved   atomic.Pointer[Verification]
	live     atomic.Pointer[parts]   // nil until the chain is known
	work     atomic.Pointer[running] // nil until Run has it

	stopping chan struct{} // closed when Run is to end
	stop     func()        // closes stopping
	behind   atomic.Bool   // too far behind to take records
}

// parts are the rooms that exist once the chain is known.
type parts struct {
	genesis *consortium.Genesis
	hash    chain.Hash
	net     string
	pool    *mempool.Pool
	offers  *offers
	ended   []event.RecordRejected // found ended when the journal was read back
}

// New opens the ledger and makes the chain where this node is its first one.
// It starts nothing. log names no room yet. A *StartError means that a restart
// will not help.
func New(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Replica, error) {
	r := &Replica{cfg: cfg, bus: bus, base: log, log: log.With("room", "replica"), reg: reg, stopping: make(chan struct{})}
	r.stop = sync.OnceFunc(func() { close(r.stopping) })
	copy(r.self[:], cfg.Key.Public().(ed25519.PublicKey))
	l, err := ledger.Open(ledger.Options{
		Dir: filepath.Join(cfg.DataDir, "ledger"), FS: cfg.LedgerFS, Bus: bus, Log: log.With("room", "replica.ledger"), Registerer: reg, End: cfg.End,
		Verified:       func(id chain.Hash) bool { p := r.live.Load(); return p != nil && p.pool.Verified(id) },
		JournalRecords: 2 * cfg.Chain.MempoolRecords, JournalBytes: 2 * int64(cfg.Chain.MempoolBytes), // the mempool is full first
	})
	if err != nil {
		return nil, err
	}
	r.ledger = l
	r.findings = newFindings(bus)
	r.disk = newDisk(filepath.Join(cfg.DataDir, "ledger"), cfg.LedgerFS, r.findings)
	if cfg.NewKey {
		err = l.FreeNew() // a backup of another node, or of a lost key
	}
	if err = errors.Join(err, r.begin()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return r, nil
}

// begin decides on which chain the node is: the stored one, that of the
// genesis file, a new one, or one that it has yet to learn from its peers.
func (r *Replica) begin() error {
	g := r.ledger.Genesis()
	c := r.cfg.Chain
	switch {
	case g != nil:
		if err := r.checkFile(g); err != nil {
			return err
		}
	case c.GenesisFile != "":
		file, err := readGenesis(c.GenesisFile)
		if err != nil {
			return err
		}
		g = file
	case r.cfg.Static+r.cfg.Seeds > 0:
		return nil // learned in Run
	case c.ChainID != "" || c.GenesisHash != "":
		return &StartError{fmt.Sprintf("chain %s%s is pinned, but %s holds no chain, no genesis_file is set and no peer is named: set PEERS, p2p.bootstrap_peers or consortium.genesis_file",
			c.ChainID, c.GenesisHash, r.cfg.DataDir)}
	case !r.mayBootstrap():
		return &StartError{fmt.Sprintf("consortium.bootstrap is %q and %s holds no chain: name a peer by PEERS=host:8080, or set consortium.bootstrap = \"auto\" on the first node",
			c.Bootstrap, r.cfg.DataDir)}
	default:
		made, err := r.makeGenesis()
		if err != nil {
			return err
		}
		g = made
	}
	if err := r.checkPin(g.ChainID, g.Hash()); err != nil {
		return err
	}
	return r.settle(g)
}

// settle puts g into the store, if it is not there, and builds the rooms that
// need a chain.
func (r *Replica) settle(g *consortium.Genesis) error {
	if r.ledger.Genesis() == nil {
		if err := r.ledger.Init(g); err != nil {
			return err
		}
	}
	p := &parts{genesis: g, hash: g.Hash(), net: g.Net(), offers: newOffers()}
	params := r.ledger.Tip().Config.Params
	p.pool = mempool.New(
		mempool.Config{Records: r.cfg.Chain.MempoolRecords, Bytes: int64(r.cfg.Chain.MempoolBytes), AuthorPending: int(params.AuthorPending), AuthorBytes: 8 << 20},
		mempool.Rules{
			Genesis: p.hash,
			Committable: func(rec *consortium.Record, id chain.Hash) error {
				return r.ledger.Committable(rec, id, r.ledger.Tip().Head.Height+1)
			},
			Config: func() *consortium.Config { return r.ledger.Tip().Config },
			Height: func() uint64 { return r.ledger.Tip().Head.Height },
			Closed: r.closed,
			Ended: func(id chain.Hash) error {
				if x, ok := r.ledger.Rejected(id); ok {
					return refusal(x)
				}
				return nil
			},
		},
		r.bus, r.base.With("room", "replica.mempool"), r.reg)
	r.live.Store(p)
	return r.readBack(p)
}

func (r *Replica) mayBootstrap() bool {
	switch r.cfg.Chain.Bootstrap {
	case "auto":
		return true
	case "ordinal-0":
		return len(r.cfg.Host) > 2 && r.cfg.Host[len(r.cfg.Host)-2:] == "-0"
	}
	return false
}

func (r *Replica) makeGenesis() (*consortium.Genesis, error) {
	var addrs []string
	for _, a := range r.cfg.Addresses() {
		if len(addrs) < consortium.MaxAddresses && len(a.String()) <= consortium.MaxAddress {
			addrs = append(addrs, a.String())
		}
	}
	g, err := consortium.NewGenesis("", []consortium.Validator{{ID: 1, Key: r.self, Name: r.cfg.Name, Addresses: addrs}},
		[]consortium.PublicKey{r.self}, consortium.DefaultParams(), time.Now())
	if err != nil {
		return nil, fmt.Errorf("make a genesis: %w", err)
	}
	r.log.Warn("new chain made, for the store is empty and no peer is named", "chain_id", g.ChainID, "genesis", g.Hash())
	return g, nil
}

// checkPin compares a chain with what the operator pinned.
func (r *Replica) checkPin(id string, hash chain.Hash) error {
	c := r.cfg.Chain
	if c.GenesisHash != "" && c.GenesisHash != hash.String() {
		return &StartError{fmt.Sprintf("consortium.genesis_hash pins %s, but %s is of chain %s with genesis %s: use another data directory, or correct the pin",
			c.GenesisHash, r.cfg.DataDir, id, hash)}
	}
	if c.ChainID != "" && c.ChainID != id {
		return &StartError{fmt.Sprintf("consortium.chain_id pins %s, but %s is of chain %s: use another data directory, or correct the pin",
			c.ChainID, r.cfg.DataDir, id)}
	}
	return nil
}

// checkFile compares the stored chain with that of the genesis file, which may
// be gone by now.
func (r *Replica) checkFile(g *consortium.Genesis) error {
	path := r.cfg.Chain.GenesisFile
	if path == "" {
		return nil
	}
	file, err := readGenesis(path)
	if err != nil || file.Hash() == g.Hash() {
		return nil //nolint:nilerr // only an empty store needs the file
	}
	return &StartError{fmt.Sprintf("consortium.genesis_file %s is of chain %s with genesis %s, but %s holds chain %s with genesis %s: use another data directory, or unset consortium.genesis_file",
		path, file.ChainID, file.Hash(), r.cfg.DataDir, g.ChainID, g.Hash())}
}

// ID implements [chain.Network].
func (r *Replica) ID() chain.NetworkID {
	id := chain.NetworkID{Kind: Kind, Name: r.cfg.NetworkName}
	if p := r.live.Load(); p != nil {
		id.Net = p.net
	}
	return id
}

// Status implements [chain.Network].
func (r *Replica) Status() chain.Status {
	s := chain.Status{Network: Kind, ChainID: r.cfg.Chain.ChainID}
	p := r.live.Load()
	if p == nil {
		return s
	}
	tip := r.ledger.Tip()
	s.ChainID, s.Genesis, s.Head, s.Services = p.genesis.ChainID, p.hash, tip.Head, chain.Full|chain.API
	if r.Role() == RoleValidator {
		s.Services |= chain.Validator
	}
	return s
}

// CheckStatus implements [chain.Network].
func (r *Replica) CheckStatus(remote chain.Status) error {
	if remote.Network != Kind {
		return &chain.MismatchError{Code: chain.WrongNetwork, Text: fmt.Sprintf("we are a %s node, you are %q", Kind, remote.Network)}
	}
	if remote.Genesis.IsZero() {
		return r.checkUnborn(remote)
	}
	p := r.live.Load()
	if p == nil {
		if c := r.cfg.Chain; c.GenesisHash != "" && c.GenesisHash != remote.Genesis.String() || c.ChainID != "" && c.ChainID != remote.ChainID {
			return &chain.MismatchError{Code: chain.WrongGenesis, Text: fmt.Sprintf("we wait for %s, you are on %s with genesis %s", pinned(c), remote.ChainID, remote.Genesis)}
		}
		return nil
	}
	if p.hash != remote.Genesis {
		code := chain.WrongGenesis
		if p.genesis.ChainID != remote.ChainID {
			code = chain.WrongNetwork
		}
		return &chain.MismatchError{Code: code, Text: fmt.Sprintf("we are on chain %s with genesis %s, you are on %s with genesis %s",
			p.genesis.ChainID, p.hash.Short(), remote.ChainID, remote.Genesis.Short())}
	}
	return nil
}

// pinned says which chain the configuration wants.
func pinned(c config.Consortium) string {
	switch {
	case c.GenesisHash == "":
		return "chain " + c.ChainID
	case c.ChainID == "":
		return "the chain with genesis " + c.GenesisHash
	}
	return "chain " + c.ChainID + " with genesis " + c.GenesisHash
}

// checkUnborn judges a peer that has no chain yet: welcome, unless it waits
// for another one than ours.
func (r *Replica) checkUnborn(remote chain.Status) error {
	p := r.live.Load()
	if p == nil || remote.ChainID == "" || remote.ChainID == p.genesis.ChainID {
		return nil
	}
	return &chain.MismatchError{Code: chain.WrongNetwork, Text: fmt.Sprintf("we are on chain %s, you wait for %s", p.genesis.ChainID, remote.ChainID)}
}

// Roles of a node.
const (
	RoleValidator = "validator"
	RoleFollower  = "follower"
)

// Role is what the current set makes of this node.
func (r *Replica) Role() string {
	if r.live.Load() == nil || r.cfg.Chain.Role == RoleFollower {
		return RoleFollower
	}
	if _, ok := r.ledger.Tip().Set.ByKey(r.self); ok {
		return RoleValidator
	}
	return RoleFollower
}

// IsValidator reports whether the node of p signs the next block, as the chain
// says; false while that is not known. What a peer said of itself in the
// handshake is of the time when it came.
func (r *Replica) IsValidator(p peer.ID) bool {
	if r.live.Load() == nil {
		return false
	}
	pub, err := p.ExtractPublicKey()
	if err != nil {
		return false
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != len(consortium.PublicKey{}) || pub.Type() != crypto.Ed25519 {
		return false
	}
	_, ok := r.ledger.Tip().Set.ByKey(consortium.PublicKey(raw))
	return ok
}

// Sync tells how far the replica is behind what it knows to exist.
func (r *Replica) Sync() event.SyncChanged {
	w := r.work.Load()
	switch {
	case w == nil:
		return event.SyncChanged{State: "waiting"}
	case r.Role() == RoleValidator && w.engine.Leader() != 0:
		return w.standing()
	}
	return w.syncer.State()
}

// Leader is the validator that leads now, 0 where the engine does not run.
func (r *Replica) Leader() uint64 {
	if w := r.work.Load(); w != nil {
		return w.engine.Leader()
	}
	return 0
}

// ErrElsewhere means that a peer's head is not one of our chain.
var ErrElsewhere = chainsync.ErrElsewhere

// HeadOf asks a ready peer for its head, and takes no head that does not fit
// our chain.
func (r *Replica) HeadOf(ctx context.Context, p peer.ID) (chain.Head, error) {
	w := r.work.Load()
	if w == nil {
		return chain.Head{}, ErrNoChain
	}
	return w.syncer.HeadOf(ctx, p)
}

// Ledger is the store. Only this room and those below it append to it.
func (r *Replica) Ledger() *ledger.Ledger { return r.ledger }

// Pool is the mempool, nil until the chain is known.
func (r *Replica) Pool() *mempool.Pool {
	if p := r.live.Load(); p != nil {
		return p.pool
	}
	return nil
}

// Genesis is nil until the chain is known.
func (r *Replica) Genesis() *consortium.Genesis {
	if p := r.live.Load(); p != nil {
		return p.genesis
	}
	return nil
}

// Close closes the ledger, after Run has returned.
func (r *Replica) Close() error { return r.ledger.Close() }

var _ chain.Network = (*Replica)(nil)

func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
