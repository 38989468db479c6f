package checker

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// lab is three nodes with one chain of eight blocks, of which the third adds a
// validator, and the journal of the clients that wrote it.
type lab struct {
	t     *testing.T
	chain *ledgertest.Chain
	disks []*vfs.MemFS
	open  []*ledger.Ledger
	nodes []Node
	told  *Told
	ids   []chain.Hash // of all records but the config, in order
	late  chain.Hash   // accepted by node1, and finally rejected there
	// wrap changes what is seen of a node's store; nil: nothing.
	wrap func(node int, c Chain) Chain
}

const labBlocks, labRecords, configHeight = 8, 5, 3

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, chain: ledgertest.New(t, 4), told: NewTold()}
	for range 3 {
		l.disks = append(l.disks, vfs.NewMem())
	}
	buses := []*event.Bus{event.NewBus(1000), event.NewBus(1000), event.NewBus(1000)}
	var subs []*event.Subscription
	for i, d := range l.disks {
		n := l.openNode(d, buses[i])
		if err := n.Init(l.chain.Genesis()); err != nil {
			t.Fatal(err)
		}
		l.open = append(l.open, n)
		subs = append(subs, buses[i].Subscribe())
	}
	for height := range uint64(labBlocks) {
		l.block(height + 1)
	}
	l.late = consortium.RecordID(l.chain.Record("late", nil))
	l.told.Add(Entry{Kind: Submit, Node: "node1", ID: l.late})
	l.told.Add(Entry{Kind: Accepted, Node: "node1", ID: l.late})
	if _, err := l.open[0].Reject(ledger.Refused{ID: l.late, Reason: "expired", Detail: "not_after 1"}); err != nil {
		t.Fatal(err)
	}
	refusal := event.RecordRejected{ID: l.late, Reason: "expired"} // at the door, of one that was handed in once more
	buses[0].Publish(refusal, event.RecordRejected{ID: l.late, Reason: "expired", Final: true}, refusal)
	buses[1].Publish(refusal)
	buses[2].Publish(event.RecordRejected{ID: l.late, Reason: "expired", Peer: "node1", Final: true}) // a hint
	for i, s := range subs {
		r := Run{Whole: true}
		events, lost := s.Take(1000)
		for _, e := range events {
			r.Add(0, e.Data)
		}
		if lost > 0 {
			t.Fatal("events lost")
		}
		l.nodes = append(l.nodes, Node{Name: fmt.Sprint("node", i+1), Runs: []Run{r}})
	}
	t.Cleanup(l.close)
	return l
}

// openNode opens a store as it lies in the data directory of a node.
func (l *lab) openNode(disk vfs.FS, bus *event.Bus) *ledger.Ledger {
	l.t.Helper()
	n, err := ledger.Open(ledger.Options{Dir: "data/ledger", FS: disk, Bus: bus, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func (l *lab) close() {
	for _, n := range l.open {
		if err := n.Close(); err != nil {
			l.t.Error(err)
		}
	}
	l.open = nil
}

// block appends the next block everywhere, as clients of node1 wrote it.
func (l *lab) block(height uint64) {
	l.t.Helper()
	var raws [][]byte
	if height == configHeight {
		raws = append(raws, l.chain.ConfigRecord(l.chain.AddValidator))
	} else {
		for i := range labRecords {
			raws = append(raws, l.chain.Record(fmt.Sprintf("%d-%d", height, i), []byte("x")))
		}
	}
	for i, raw := range raws {
		id := consortium.RecordID(raw)
		l.told.Add(Entry{Kind: Submit, Node: "node1", ID: id})
		if i == 0 {
			l.told.Add(Entry{Kind: Accepted, Node: "node2", ID: id})
		}
		if height != configHeight {
			l.ids = append(l.ids, id)
		}
	}
	b := l.chain.Next(raws...)
	for _, n := range l.open {
		if err := n.Append(b, "own", ""); err != nil {
			l.t.Fatal(err)
		}
	}
	for i, raw := range raws {
		l.told.Add(Entry{Kind: Committed, Node: "node1", ID: consortium.RecordID(raw), Height: height, Index: uint32(i), Block: b.Header.Hash()})
	}
}

// edited is a chain of which a reader sees something else than was stored.
type edited struct {
	Chain
	edit func(*consortium.Block)
}

func (e edited) Block(height uint64) (*consortium.Block, error) {
	b, err := e.Chain.Block(height)
	if err == nil {
		e.edit(b)
	}
	return b, err
}

// silent is pebble's logger.
type silent struct{}

func (silent) Infof(string, ...any)         {}
func (silent) Errorf(string, ...any)        {}
func (silent) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// write changes the store of one node behind its back.
func (l *lab) write(node int, f func(db *pebble.DB) error) {
	l.t.Helper()
	l.close()
	db, err := pebble.Open("data/ledger", &pebble.Options{FS: l.disks[node-1], FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := f(db); err != nil {
		l.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) judge() *Report {
	l.t.Helper()
	if err := l.reopen(); err != nil {
		l.t.Fatal(err)
	}
	r, err := Judge(l.t.Context(), l.told, l.nodes)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// try is judge for a store that may not open at all.
func (l *lab) try() (*Report, error) {
	l.t.Helper()
	if err := l.reopen(); err != nil {
		return nil, err
	}
	return l.judge(), nil
}

func (l *lab) reopen() error {
	l.close()
	for i, d := range l.disks {
		c, err := OpenChain("data", d)
		if err != nil {
			return err
		}
		l.open = append(l.open, c)
		l.nodes[i].Chain = c
		if l.wrap != nil {
			l.nodes[i].Chain = l.wrap(i+1, c)
		}
	}
	return nil
}

func heightKey(kind byte, height uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, height)
}

// change rewrites one value.
func change(db *pebble.DB, key []byte, edit func([]byte) []byte) error {
	v, closer, err := db.Get(key)
	if err != nil {
		return fmt.Errorf("%q: %w", key, err)
	}
	v = edit(append([]byte(nil), v...))
	if err := closer.Close(); err != nil {
		return err
	}
	if v == nil {
		return db.Delete(key, pebble.Sync)
	}
	return db.Set(key, v, pebble.Sync)
}

// records splits the value of a subtree, and joins it again.
func records(v []byte) (list [][]byte) {
	for b := v[2:]; len(b) > 0; {
		end := 4 + binary.BigEndian.Uint32(b)
		list, b = append(list, b[:end]), b[end:]
	}
	return list
}

func join(list [][]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(list)))
	for _, r := range list {
		b = append(b, r...)
	}
	return b
}

func (l *lab) editBody(height uint64, edit func([][]byte) [][]byte) {
	l.write(2, func(db *pebble.DB) error {
		return change(db, append(heightKey('b', height), 0, 0), func(v []byte) []byte { return join(edit(records(v))) })
	})
}

// edit changes the block of one height as it is seen of node2.
func (l *lab) edit(height uint64, edit func(*consortium.Block)) {
	l.wrap = func(node int, c Chain) Chain {
		if node != 2 {
			return c
		}
		return edited{c, func(b *consortium.Block) {
			if b.Header.Height == height {
				edit(b)
			}
		}}
	}
}

// proving is a chain whose proofs are others than those of the store.
type proving struct {
	Chain
	prove func(id chain.Hash) (*consortium.Proof, error)
}

func (p proving) Proof(id chain.Hash) (*consortium.Proof, error) { return p.prove(id) }

// reprove changes what node2 gives as a proof of one record.
func (l *lab) reprove(id chain.Hash, f func(c Chain) (*consortium.Proof, error)) {
	l.wrap = func(node int, c Chain) Chain {
		if node != 2 {
			return c
		}
		return proving{c, func(of chain.Hash) (*consortium.Proof, error) {
			if of == id {
				return f(c)
			}
			return c.Proof(of)
		}}
	}
}

func rejection(id chain.Hash) (r Run) {
	r.Add(0, event.RecordRejected{ID: id, Reason: "expired", Final: true})
	return r
}

// retell leaves out what node2 told.
func (l *lab) retell(keep func(news) bool) {
	r := Run{Whole: true}
	for _, n := range l.nodes[1].Runs[0].told {
		if keep(n) {
			r.told = append(r.told, n)
		}
	}
	l.nodes[1].Runs = []Run{r}
}

// stopListening lets the nodes go on unheard.
func (l *lab) stopListening() {
	for _, n := range l.nodes {
		n.Runs[0].Whole = false
	}
}

// fork lets node3 store another certified block than the others.
func (l *lab) fork() {
	l.stopListening()
	theirs := l.chain.Build(l.chain.Record("theirs", nil))
	raw := l.chain.Record("ours", nil)
	ours := l.chain.Next(raw)
	id := consortium.RecordID(raw)
	l.told.Add(Entry{Kind: Submit, Node: "node1", ID: id})
	l.told.Add(Entry{Kind: Committed, Node: "node1", ID: id, Height: 9, Block: ours.Header.Hash()})
	for i, n := range l.open {
		b := ours
		if i == 2 {
			b = theirs
		}
		if err := n.Append(b, "own", ""); err != nil {
			l.t.Fatal(err)
		}
	}
}

// extended is a chain with one more block than was stored.
type extended struct {
	Chain
	more *consortium.Block
}

func (e extended) Tip() ledger.Tip {
	t := e.Chain.Tip()
	t.Head = chain.Head{Height: e.more.Header.Height, Hash: e.more.Header.Hash()}
	return t
}

func (e extended) Block(height uint64) (*consortium.Block, error) {
	if height == e.more.Header.Height {
		return e.more, nil
	}
	return e.Chain.Block(height)
}

// twice lets all nodes show a certified block that holds a record again.
func (l *lab) twice() {
	l.stopListening()
	old, err := l.open[0].Block(2)
	if err != nil {
		l.t.Fatal(err)
	}
	more := l.chain.Next(old.Body[0].Records[1])
	l.wrap = func(_ int, c Chain) Chain { return extended{c, more} }
}
