package checker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

func TestCleanRun(t *testing.T) {
	l := newLab(t)
	r := l.judge()
	if !r.OK() {
		t.Fatal(r)
	}
	want := Report{Submitted: 37, Acknowledged: 37, Committed: 36, Rejected: 1, Height: labBlocks, Records: 36, Proofs: 96}
	if got := fmt.Sprintf("%+v", *r); got != fmt.Sprintf("%+v", want) {
		t.Errorf("report %s, want %+v", got, want)
	}
	if s := r.String(); !strings.Contains(s, "acknowledged 37, committed 36, rejected 1, lost 0, duplicated 0, disagreements 0") {
		t.Error(s)
	}
}

// Each planted fault is found, named by its class, node, height and record.
func TestPlantedFaults(t *testing.T) {
	type want struct {
		class  Class
		node   string
		height uint64
	}
	for name, c := range map[string]struct {
		plant func(l *lab)
		want  []want
		lost  int
	}{
		"a proof of another record": {
			plant: func(l *lab) {
				l.reprove(l.ids[12], func(c Chain) (*consortium.Proof, error) { return c.Proof(l.ids[13]) })
			},
			want: []want{{BadProof, "node2", 4}},
		},
		"a proof with a record that was altered": {
			plant: func(l *lab) {
				l.reprove(l.ids[12], func(c Chain) (*consortium.Proof, error) {
					p, err := c.Proof(l.ids[12])
					if err == nil {
						p.Record[len(p.Record)-1] ^= 1
					}
					return p, err
				})
			},
			want: []want{{BadProof, "node2", 4}},
		},
		"a proof that does not lead from the genesis": {
			plant: func(l *lab) {
				l.reprove(l.ids[12], func(c Chain) (*consortium.Proof, error) {
					p, err := c.Proof(l.ids[12])
					if err == nil {
						p.Trail = p.Trail[:0]
					}
					return p, err
				})
			},
			want: []want{{BadProof, "node2", 4}},
		},
		"no proof at all": {
			plant: func(l *lab) {
				l.reprove(l.ids[12], func(Chain) (*consortium.Proof, error) { return nil, errors.New("no") })
			},
			want: []want{{BadProof, "node2", 4}},
		},
		"a record deleted on one node": {
			plant: func(l *lab) { l.editBody(5, func(r [][]byte) [][]byte { return append(r[:2], r[3:]...) }) },
			want:  []want{{Damaged, "node2", 5}, {Lost, "node2", 5}, {Index, "node2", 0}}, lost: 3,
		},
		"a whole body deleted on one node": {
			plant: func(l *lab) {
				l.write(2, func(db *pebble.DB) error { return db.Delete(append(heightKey('b', 5), 0, 0), pebble.Sync) })
			},
			want: []want{{Damaged, "node2", 5}, {Lost, "node2", 5}, {Index, "node2", 0}}, lost: 5,
		},
		"a header deleted on the first node": {
			plant: func(l *lab) {
				l.write(1, func(db *pebble.DB) error { return db.Delete(heightKey('h', 5), pebble.Sync) })
			},
			want: []want{{Damaged, "node1", 5}, {Lost, "node1", 5}, {Index, "node1", 0}}, lost: 5,
		},
		"two records swapped": {
			plant: func(l *lab) {
				l.editBody(5, func(r [][]byte) [][]byte { r[1], r[3] = r[3], r[1]; return r })
			},
			want: []want{{Damaged, "node2", 5}, {Lost, "node2", 5}, {Index, "node2", 0}}, lost: 2,
		},
		"a record twice on one node": {
			plant: func(l *lab) {
				l.editBody(5, func(r [][]byte) [][]byte { r[4] = r[0]; return r })
			},
			want: []want{{Damaged, "node2", 5}, {Duplicate, "node2", 5}, {Lost, "node2", 5}, {Index, "node2", 0}}, lost: 1,
		},
		"a record twice in the chain of all": {
			plant: func(l *lab) { l.twice() },
			want:  []want{{Duplicate, "node1", 9}},
		},
		"another header at one height": {
			plant: func(l *lab) { l.fork() },
			want:  []want{{Disagreement, "node3", 9}, {Lost, "node3", 9}},
			lost:  1,
		},
		"a certificate with a broken signature": {
			plant: func(l *lab) { l.edit(6, func(b *consortium.Block) { b.Certificate.Votes[0].Sig[5] ^= 1 }) },
			want:  []want{{Certificate, "node2", 6}},
		},
		"a certificate below the quorum": {
			plant: func(l *lab) { l.edit(6, func(b *consortium.Block) { b.Certificate.Votes = b.Certificate.Votes[:3] }) },
			want:  []want{{Certificate, "node2", 6}},
		},
		"a certificate of a broken one in the store": {
			plant: func(l *lab) {
				l.write(2, func(db *pebble.DB) error {
					return change(db, heightKey('q', 6), func(v []byte) []byte { v[len(v)-1] ^= 1; return v })
				})
			},
			want: []want{{Certificate, "node2", 6}, {Index, "node2", 0}, {BadProof, "node2", 6}},
		},
		"a header with another time": {
			plant: func(l *lab) { l.edit(6, func(b *consortium.Block) { b.Header.Time = 1 }) },
			want:  []want{{Gap, "node2", 6}, {Gap, "node2", 7}, {Certificate, "node2", 6}, {Disagreement, "node2", 6}, {Lost, "node2", 6}, {Events, "node2", 6}}, lost: 5,
		},
		"a header with another epoch": {
			plant: func(l *lab) { l.edit(2, func(b *consortium.Block) { b.Header.Epoch = 7 }) },
			want:  []want{{Gap, "node2", 2}, {Gap, "node2", 3}, {Certificate, "node2", 2}, {Disagreement, "node2", 2}, {Lost, "node2", 2}, {Events, "node2", 2}}, lost: 5,
		},
		"a config block that brings another set": {
			plant: func(l *lab) { l.edit(configHeight, func(b *consortium.Block) { b.Header.NextSet[0] ^= 1 }) },
			want:  []want{{Gap, "node2", 3}, {Gap, "node2", 4}, {Certificate, "node2", 3}, {Disagreement, "node2", 3}, {Lost, "node2", 3}, {Events, "node2", 3}}, lost: 1,
		},
		"an altered index entry": {
			plant: func(l *lab) {
				l.write(2, func(db *pebble.DB) error {
					return change(db, append([]byte{'t'}, l.ids[7][:]...), func(v []byte) []byte { v[11]++; return v })
				})
			},
			want: []want{{Index, "node2", 0}, {BadProof, "node2", 2}},
		},
		"a missing index entry": {
			plant: func(l *lab) {
				l.write(3, func(db *pebble.DB) error {
					return change(db, append([]byte{'t'}, l.ids[7][:]...), func([]byte) []byte { return nil })
				})
			},
			want: []want{{Index, "node3", 0}, {BadProof, "node3", 2}},
		},
		"an index entry of no block": {
			plant: func(l *lab) {
				l.write(3, func(db *pebble.DB) error {
					return db.Set(append([]byte{'a'}, make([]byte, 44)...), make([]byte, 32), pebble.Sync)
				})
			},
			want: []want{{Index, "node3", 0}},
		},
		"a committed answer that no node knows": {
			plant: func(l *lab) {
				id := chain.Hash{1}
				l.told.Add(Entry{Kind: Submit, Node: "node1", ID: id})
				l.told.Add(Entry{Kind: Committed, Node: "node1", ID: id, Height: 99, Block: chain.Hash{2}})
			},
			want: []want{{Lost, "node1", 99}, {Lost, "node2", 99}, {Lost, "node3", 99}, {Lost, "", 99}}, lost: 1,
		},
		"a committed answer with another height": {
			plant: func(l *lab) {
				e := l.told.records[l.ids[3]].committed[0]
				e.Height++
				l.told.Add(e)
			},
			want: []want{{Lost, "node1", 2}, {Lost, "node2", 2}, {Lost, "node3", 2}, {Lost, "", 2}}, lost: 1,
		},
		"a committed answer with another index": {
			plant: func(l *lab) {
				e := l.told.records[l.ids[3]].committed[0]
				e.Index++
				l.told.Add(e)
			},
			want: []want{{Lost, "", 1}}, lost: 1,
		},
		"a committed answer with another block": {
			plant: func(l *lab) {
				e := l.told.records[l.ids[3]].committed[0]
				e.Block[0] ^= 1
				l.told.Add(e)
			},
			want: []want{{Lost, "node1", 1}, {Lost, "node2", 1}, {Lost, "node3", 1}}, lost: 1,
		},
		"an accepted record without an end": {
			plant: func(l *lab) {
				l.told.Add(Entry{Kind: Submit, Node: "node3", ID: chain.Hash{1}})
				l.told.Add(Entry{Kind: Accepted, Node: "node3", ID: chain.Hash{1}})
			},
			want: []want{{Unanswered, "node3", 0}}, lost: 1,
		},
		"an accepted record rejected by another node only": {
			plant: func(l *lab) { l.told.Add(Entry{Kind: Accepted, Node: "node2", ID: l.late}) },
			want:  []want{{Unanswered, "node2", 0}}, lost: 1,
		},
		"a final rejection told twice": {
			plant: func(l *lab) { l.nodes[0].Runs = append(l.nodes[0].Runs, rejection(l.late)) },
			want:  []want{{DoubleAnswer, "node1", 0}},
		},
		"a committed record finally rejected": {
			plant: func(l *lab) {
				l.write(3, func(db *pebble.DB) error {
					return db.Set(append([]byte{'r'}, l.ids[7][:]...), []byte(`{"reason":"expired"}`), pebble.Sync)
				})
			},
			want: []want{{DoubleAnswer, "node3", 2}},
		},
		"a client told of a rejection that did not hold": {
			plant: func(l *lab) { l.told.Add(Entry{Kind: Rejected, Node: "node3", ID: l.ids[7]}) },
			want:  []want{{DoubleAnswer, "node3", 2}},
		},
		"a node left behind": {
			plant: func(l *lab) {
				l.stopListening()
				b := l.chain.Next(l.chain.Record("more", nil))
				for _, n := range l.open[:2] {
					if err := n.Append(b, "own", ""); err != nil {
						l.t.Fatal(err)
					}
				}
			},
			want: []want{{Behind, "node3", 8}},
		},
		"a record handed in late that stands early": {
			plant: func(l *lab) {
				raw := l.ids[0]
				l.told.records[raw].floor = 4
			},
			want: []want{{Reordered, "", 1}},
		},
		"an answer without a submit": {
			plant: func(l *lab) { l.told.Add(Entry{Kind: Refused, Node: "node1", ID: chain.Hash{9}}) },
			want:  []want{{BadJournal, "node1", 0}},
		},
		"a block not told": {
			plant: func(l *lab) { l.retell(func(n news) bool { return n.height != 4 }) },
			want:  []want{{Events, "node2", 5}},
		},
		"a record not told": {
			plant: func(l *lab) {
				l.retell(func(n news) bool { return n.kind != newsRecord || n.height != 4 || n.index != 4 })
			},
			want: []want{{Events, "node2", 4}},
		},
		"the head not told": {
			plant: func(l *lab) { l.retell(func(n news) bool { return n.height != labBlocks }) },
			want:  []want{{Events, "node2", labBlocks}},
		},
		"the last record not told": {
			plant: func(l *lab) {
				l.retell(func(n news) bool { return n.kind != newsRecord || n.height != labBlocks || n.index != 4 })
			},
			want: []want{{Events, "node2", labBlocks}},
		},
		"nothing told in the last run": {
			plant: func(l *lab) {
				l.retell(func(n news) bool { return n.height < labBlocks })
				l.nodes[1].Runs = append(l.nodes[1].Runs, Run{Whole: true, Start: labBlocks - 1})
				l.nodes[1].Runs[0].Whole = false
			},
			want: []want{{Events, "node2", labBlocks}},
		},
		"a final rejection told as none": {
			plant: func(l *lab) {
				r := &l.nodes[0].Runs[0]
				r.told = slices.DeleteFunc(r.told, func(n news) bool { return n.kind == newsRejected })
				r.Add(0, event.RecordRejected{ID: l.late, Reason: "expired"})
			},
			want: []want{{Events, "node1", 0}},
		},
		"a refusal told as final": {
			plant: func(l *lab) {
				l.nodes[0].Runs[0].Add(0, event.RecordRejected{ID: chain.Hash{7}, Height: 3, Reason: "mempool_full", Final: true})
			},
			want: []want{{Events, "node1", 3}},
		},
		"a final rejection told of a committed record": {
			plant: func(l *lab) { l.nodes[2].Runs = append(l.nodes[2].Runs, rejection(l.ids[7])) },
			want:  []want{{Events, "node3", 0}},
		},
		"a block told again after a restart": {
			plant: func(l *lab) {
				var again Run
				again.Add(0, event.BlockStored{Height: 8, Hash: l.chain.Head().Hash})
				l.nodes[1].Runs = append(l.nodes[1].Runs, again)
			},
			want: []want{{Events, "node2", 8}},
		},
		"a block told with another hash": {
			plant: func(l *lab) {
				var wrong Run
				wrong.Add(0, event.BlockStored{Height: 1})
				l.nodes[1].Runs = []Run{wrong}
			},
			want: []want{{Events, "node2", 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.plant(l)
			r := l.judge()
			for _, w := range c.want {
				found := false
				for _, v := range r.Violations {
					found = found || v.Class == w.class && v.Node == w.node && v.Height == w.height
				}
				if !found {
					t.Errorf("not found: %s on %q at height %d", w.class, w.node, w.height)
				}
			}
			for _, v := range r.Violations {
				wanted := false
				for _, w := range c.want {
					wanted = wanted || v.Class == w.class && v.Node == w.node && v.Height == w.height
				}
				if !wanted {
					t.Errorf("not planted: %s", v)
				}
			}
			if r.Lost != c.lost {
				t.Errorf("lost %d, want %d", r.Lost, c.lost)
			}
			if t.Failed() {
				t.Log(r)
			}
		})
	}
}

// Whatever entry of a store is altered or deleted, it is found.
func TestAnyEntryCounts(t *testing.T) {
	l := newLab(t)
	keys := map[byte][][]byte{}
	l.write(2, func(db *pebble.DB) error {
		it, err := db.NewIter(nil)
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			keys[it.Key()[0]] = append(keys[it.Key()[0]], append([]byte(nil), it.Key()...))
		}
		return it.Close()
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []byte("hqxbtsauc") {
		if len(keys[kind]) == 0 {
			t.Fatalf("no entry of kind %c", kind)
		}
		for _, how := range []string{"altered", "deleted"} {
			key := keys[kind][rnd.IntN(len(keys[kind]))]
			var old []byte
			l.write(2, func(db *pebble.DB) error {
				return change(db, key, func(v []byte) []byte {
					old = append(old, v...)
					if how == "deleted" {
						return nil
					}
					v[rnd.IntN(len(v))] ^= 1 << rnd.IntN(8)
					return v
				})
			})
			if r, err := l.try(); err == nil && r.OK() {
				t.Errorf("%c %x %s: not found", kind, key[1:], how)
			}
			l.write(2, func(db *pebble.DB) error { return db.Set(key, old, pebble.Sync) })
		}
	}
	if r := l.judge(); !r.OK() {
		t.Error(r)
	}
}
