// Package mempool owns the records that wait for a block: bounded, verified
// once, fair between authors.
package mempool

import (
	"container/list"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

const (
	// gossipAge ends the stay of a record that was only heard of: whoever took
	// it from a client offers it again.
	gossipAge = 10 * time.Minute
	// verifiedIDs is how many ids with a good signature are remembered. It
	// outlasts the stay in the pool, so that late gossip of a committed record
	// and the block itself cost no second check.
	verifiedIDs = 100_000
	// refusedEvents is how many refusals at the door are told a second: a
	// client that sends nothing else must not drown the other events.
	refusedEvents = 10
)

// Config bounds a Pool.
type Config struct {
	Records       int   // in the pool
	Bytes         int64 // of all encoded records
	AuthorPending int   // records of one author
	AuthorBytes   int64 // of one author's records
}

// Rules are the chain's part in what the pool takes.
type Rules struct {
	Genesis chain.Hash // what signatures are over
	// Committable is the ledger's rule for the next block. An error that is no
	// *consortium.RecordError means that it could not judge. It is called by
	// several goroutines, never under the pool's lock, and asks Verified.
	Committable func(r *consortium.Record, id chain.Hash) error
	// Config is the one in force, which bounds an author's records and whose
	// epoch tells when all records have to be judged again. nil: neither.
	Config func() *consortium.Config
	// Height of the chain. It MUST have its new value before Remove is called
	// for the records of a block. nil: each record is judged twice.
	Height func() uint64
	// Closed tells why this node takes no record from a client now: nil, or a
	// *consortium.RecordError of the node's state (disk_low, syncing,
	// shutting_down). It is asked for each record and MUST NOT block.
	Closed func() error // nil: never
	// Ended is the final answer that a record had before, which a client that
	// hands it in again gets once more.
	Ended func(id chain.Hash) error // nil: none is known
}

// Pool is the records that wait for a block. All methods are safe for
// concurrent use, and none waits for anything but the rules.
type Pool struct {
	cfg     Config
	rules   Rules
	bus     *event.Bus
	log     *slog.Logger
	refused *prometheus.CounterVec
	told    *rate.Limiter // refusals of which an event tells
	wake    chan struct{}

	mu       sync.Mutex // guards below
	records  map[chain.Hash]*entry
	authors  map[consortium.PublicKey]*author
	turns    *list.List // of *author, the one to serve next in front
	configs  *list.List // of *entry: config records, oldest first
	bytes    int64
	verified idSet
	epoch    uint64 // in which all records were judged; see Sweep
}

// entry is one record. Only local changes once it is in the pool.
type entry struct {
	id       chain.Hash
	raw      []byte
	author   consortium.PublicKey
	notAfter uint64
	added    time.Time
	local    bool // a client gave it to this node
	in       *list.List
	at       *list.Element // of in
}

// author is who has records in the pool.
type author struct {
	records *list.List // of *entry, oldest first
	count   int        // configs included
	bytes   int64      // configs included
	turn    *list.Element
}

// New returns an empty pool. bus and reg may be nil.
func New(cfg Config, rules Rules, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) *Pool {
	p := &Pool{
		cfg: cfg, rules: rules, bus: bus, log: log,
		told:     rate.NewLimiter(refusedEvents, refusedEvents),
		wake:     make(chan struct{}, 1),
		records:  map[chain.Hash]*entry{},
		authors:  map[consortium.PublicKey]*author{},
		turns:    list.New(),
		configs:  list.New(),
		verified: newIDSet(verifiedIDs),
	}
	if c := p.config(); c != nil {
		p.epoch = c.Epoch
	}
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_mempool_records", Help: "Records that wait for a block."}, func() float64 { return float64(p.Len()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_mempool_bytes", Help: "Bytes of the records that wait."}, func() float64 { return float64(p.Bytes()) })
	p.refused = f.NewCounterVec(prometheus.CounterOpts{Name: "parley_mempool_rejected_total", Help: "Records refused or dropped, by reason."}, []string{"reason"})
	for _, r := range consortium.Reasons {
		p.refused.WithLabelValues(string(r)) // there from the first scrape
	}
	return p
}

func (p *Pool) config() *consortium.Config {
	if p.rules.Config == nil {
		return nil
	}
	return p.rules.Config()
}

// Add takes an encoded record; raw MUST NOT be changed afterwards. from is who
// handed it over, "" for a client of this node. Errors: chain.ErrKnown when it
// is in the pool; a *consortium.RecordError that tells why it is refused, with
// Duplicate for one that is in the chain; or a fault of ours. The id is valid
// with every error but TooLarge.
func (p *Pool) Add(raw []byte, from peer.ID) (chain.Hash, error) {
	if err := checkSize(raw); err != nil { // before it is hashed
		return chain.Hash{}, p.refuse(chain.Hash{}, raw, from, err)
	}
	id := consortium.RecordID(raw)
	return id, p.refuse(id, raw, from, p.add(id, raw, from))
}

// AddOwn is Add for a client's record whose id is known already; id MUST be
// that of raw.
func (p *Pool) AddOwn(id chain.Hash, raw []byte) error {
	err := checkSize(raw)
	if err == nil {
		err = p.add(id, raw, "")
	}
	return p.refuse(id, raw, "", err)
}

func checkSize(raw []byte) error {
	if len(raw) > consortium.MaxRecord {
		return consortium.Refuse(consortium.TooLarge, "record of %d bytes is over the limit of %d", len(raw), consortium.MaxRecord)
	}
	return nil
}

// refuse counts a refusal and tells of it; it returns err.
func (p *Pool) refuse(id chain.Hash, raw []byte, from peer.ID, err error) error {
	if err == nil {
		return nil
	}
	if bad, ok := errors.AsType[*consortium.RecordError](err); ok {
		p.refused.WithLabelValues(string(bad.Reason)).Inc()
		p.log.Debug("record refused", "id", id, "peer", from, "err", err)
		if from == "" {
			p.tell(id, raw, bad)
		}
	}
	return err
}

// tell publishes what a client was told at the door.
func (p *Pool) tell(id chain.Hash, raw []byte, bad *consortium.RecordError) {
	if p.bus == nil || bad.Reason == consortium.Duplicate || !p.told.Allow() {
		return
	}
	e := event.RecordRejected{ID: id, Reason: string(bad.Reason), Detail: bad.Detail, Height: p.height()}
	if r, err := consortium.DecodeRecord(raw); err == nil {
		e.Author = hex.EncodeToString(r.Author[:])
	}
	p.bus.Publish(e)
}

// Restore puts a record back that this node accepted before, over the bounds if
// need be: it must not be lost. The rule is asked again; errors are those of
// Add.
func (p *Pool) Restore(raw []byte) (chain.Hash, error) {
	id := consortium.RecordID(raw)
	if p.known(id, true) {
		return id, chain.ErrKnown
	}
	r, err := consortium.DecodeRecord(raw)
	if err != nil {
		return id, err
	}
	return id, p.enter(&entry{id: id, raw: raw, author: r.Author, notAfter: r.NotAfter, added: time.Now(), local: true}, r, false)
}

func (p *Pool) add(id chain.Hash, raw []byte, from peer.ID) error {
	e, r, err := p.read(id, raw, from)
	if err != nil {
		return err
	}
	return p.enter(e, r, true)
}

// read makes an entry of raw, which is not in the pool.
func (p *Pool) read(id chain.Hash, raw []byte, from peer.ID) (*entry, *consortium.Record, error) {
	if from == "" && p.rules.Closed != nil {
		if err := p.rules.Closed(); err != nil {
			return nil, nil, err
		}
	}
	if p.known(id, from == "") { // so it decoded once
		return nil, nil, chain.ErrKnown
	}
	r, err := consortium.DecodeRecord(raw)
	if err != nil {
		return nil, nil, err
	}
	if from == "" && p.rules.Ended != nil {
		if err := p.rules.Ended(id); err != nil {
			return nil, nil, err
		}
	}
	return &entry{id: id, raw: raw, author: r.Author, notAfter: r.NotAfter, added: time.Now(), local: from == ""}, r, nil
}

// enter judges r, which is e decoded, and puts it into the pool.
func (p *Pool) enter(e *entry, r *consortium.Record, bounded bool) error {
	unchecked, err := p.unchecked(e, bounded)
	if err != nil {
		return err
	}
	if unchecked {
		if err := r.Verify(p.rules.Genesis); err != nil {
			return err
		}
		p.checked(e)
	}
	if err := p.settle(e, r, bounded); err != nil {
		return err
	}
	p.rouse()
	return nil
}

// unchecked reports whether e's signature is still to be verified. Where there
// is no room it is not: a check that is in vain costs more than all the rest.
func (p *Pool) unchecked(e *entry, bounded bool) (bool, error) {
	pending := p.pending()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verified.has(e.id) {
		return false, nil
	}
	if bounded {
		if err := p.fits(e, pending); err != nil {
			return false, err
		}
	}
	return true, nil
}

// checked notes good signatures.
func (p *Pool) checked(entries ...*entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		p.verified.add(e.id)
	}
}

// settle puts a record into the pool whose signature is good, if the chain
// takes it.
func (p *Pool) settle(e *entry, r *consortium.Record, bounded bool) error {
	height := p.height()
	if err := p.rules.Committable(r, e.id); err != nil {
		return err
	}
	if err := p.insert(e, r.Kind == consortium.KindConfig, bounded); err != nil {
		return err
	}
	// A block may have come in between, and its Remove found nothing.
	if p.rules.Height == nil || p.height() != height {
		if err := p.rules.Committable(r, e.id); err != nil {
			p.Remove(e.id)
			return err
		}
	}
	return nil
}

// rouse tells who waits for records that some are there.
func (p *Pool) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Pool) height() uint64 {
	if p.rules.Height == nil {
		return 0
	}
	return p.rules.Height()
}

// known reports whether id is in the pool. One that a client brings as well is
// kept like a client's.
func (p *Pool) known(id chain.Hash, local bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.records[id]
	if e != nil && local {
		e.local = true
	}
	return e != nil
}

// pending is how many records of one author may wait.
func (p *Pool) pending() int {
	if c := p.config(); c != nil {
		return int(c.Params.AuthorPending)
	}
	return p.cfg.AuthorPending
}

// fits refuses e where the pool or its author's part is full; mu held.
func (p *Pool) fits(e *entry, pending int) error {
	size := int64(len(e.raw))
	if len(p.records) >= p.cfg.Records || p.bytes+size > p.cfg.Bytes {
		return consortium.Refuse(consortium.MempoolFull, "%d records of %d bytes wait already: try again later", len(p.records), p.bytes)
	}
	a := p.authors[e.author]
	if a == nil {
		a = &author{}
	}
	if a.count >= pending || a.bytes+size > p.cfg.AuthorBytes {
		return consortium.Refuse(consortium.AuthorLimit, "%d records of %d bytes of author %s wait already: try again later", a.count, a.bytes, e.author)
	}
	return nil
}

func (p *Pool) insert(e *entry, config, bounded bool) error {
	pending := p.pending()
	size := int64(len(e.raw))
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.records[e.id]; old != nil { // another caller was faster
		old.local = old.local || e.local
		return chain.ErrKnown
	}
	if bounded {
		if err := p.fits(e, pending); err != nil {
			return err
		}
	}
	a := p.authors[e.author]
	if a == nil {
		a = &author{records: list.New()}
	}
	p.authors[e.author] = a
	a.count++
	a.bytes += size
	if config {
		e.in = p.configs
	} else {
		e.in = a.records
		if a.turn == nil {
			a.turn = p.turns.PushBack(a)
		}
	}
	e.at = e.in.PushBack(e)
	p.records[e.id] = e
	p.bytes += size
	return nil
}

// remove takes an entry out; mu held.
func (p *Pool) remove(e *entry) {
	delete(p.records, e.id)
	size := int64(len(e.raw))
	p.bytes -= size
	e.in.Remove(e.at)
	a := p.authors[e.author]
	a.count--
	a.bytes -= size
	if a.turn != nil && a.records.Len() == 0 {
		p.turns.Remove(a.turn)
		a.turn = nil
	}
	if a.count == 0 {
		delete(p.authors, e.author)
	}
}

// Get returns a record that waits; its bytes MUST NOT be changed.
func (p *Pool) Get(id chain.Hash) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.records[id]
	if e == nil {
		return nil, false
	}
	return e.raw, true
}

// Has reports whether a record waits.
func (p *Pool) Has(id chain.Hash) bool {
	_, ok := p.Get(id)
	return ok
}

// Remove forgets records, such as those of a new block.
func (p *Pool) Remove(ids ...chain.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if e := p.records[id]; e != nil {
			p.remove(e)
		}
	}
}

// Verified reports whether this node saw that the signature under the record
// with this id is good, lately. The id fixes every byte of a record.
func (p *Pool) Verified(id chain.Hash) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verified.has(id)
}

// Wake yields after records were added.
func (p *Pool) Wake() <-chan struct{} { return p.wake }

// Len counts the records that wait.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.records)
}

// IDs lists the records that wait, in no order.
func (p *Pool) IDs() []chain.Hash {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.records))
}

// Bytes counts the bytes of the records that wait.
func (p *Pool) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}
