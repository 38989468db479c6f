package checker

import (
	"context"
	"fmt"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// walked is one node's chain, read from its genesis to its head.
type walked struct {
	node    Node
	height  uint64
	genesis chain.Hash
	hashes  []chain.Hash            // of height i+1; zero where the block cannot be read
	bad     map[uint64]string       // heights whose body does not count, and why
	own     map[uint64][]chain.Hash // ids of blocks that differ from those of other nodes
}

// hash is the header hash at a height, zero where there is none.
func (w *walked) hash(height uint64) chain.Hash {
	if height == 0 || height > uint64(len(w.hashes)) {
		return chain.Hash{}
	}
	return w.hashes[height-1]
}

// state is what the next block is judged by.
type state struct {
	genesis chain.Hash
	height  uint64
	prev    chain.Hash // zero after a block that could not be read
	time    uint64
	config  *consortium.Config
	set     *consortium.ValidatorSet
}

// walk reads and judges one node's chain.
func (j *judge) walk(ctx context.Context, n Node) (*walked, error) {
	tip := n.Chain.Tip()
	w := &walked{node: n, height: tip.Head.Height, bad: map[uint64]string{}, own: map[uint64][]chain.Hash{}}
	if tip.Genesis == nil {
		j.add(Violation{Class: Behind, Node: n.Name, Detail: "it has no chain"})
		return w, nil
	}
	s := state{genesis: tip.Genesis.Hash(), time: tip.Genesis.Time}
	s.prev, w.genesis = s.genesis, s.genesis
	s.use(&tip.Genesis.Config)
	if j.configs[0] == nil {
		j.configs[0] = s.config
	} else if j.configs[0].Set().Hash() != s.set.Hash() {
		j.add(Violation{Class: Disagreement, Node: n.Name, Detail: fmt.Sprintf("its genesis is %s, of another chain than the first node's", s.genesis)})
	}
	seen := map[chain.Hash]place{}
	for s.height < w.height {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.height++
		j.judgeBlock(w, &s, seen)
	}
	if last := w.hash(w.height); w.height > 0 && !last.IsZero() && last != tip.Head.Hash {
		j.add(Violation{Class: Index, Node: n.Name, Height: w.height, Detail: fmt.Sprintf("the tip is %s, the block's header %s", tip.Head.Hash, last)})
	}
	if err := n.Chain.Check(ctx, nil); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		j.add(Violation{Class: Index, Node: n.Name, Detail: err.Error()})
	}
	j.Height = max(j.Height, w.height)
	return w, nil
}

func (s *state) use(c *consortium.Config) { s.config, s.set = c, c.Set() }

// judgeBlock judges the block at s.height, and moves s behind it.
func (j *judge) judgeBlock(w *walked, s *state, seen map[chain.Hash]place) {
	b, err := w.node.Chain.Block(s.height)
	if err != nil {
		j.add(Violation{Class: Damaged, Node: w.node.Name, Height: s.height, Detail: err.Error()})
		w.bad[s.height] = "it cannot be read"
		w.hashes = append(w.hashes, chain.Hash{})
		s.prev = chain.Hash{}
		return
	}
	h, hash := b.Header, b.Header.Hash()
	w.hashes = append(w.hashes, hash)
	j.compareHeader(w, s.height, hash)
	if s.prev.IsZero() && h.Epoch != s.config.Epoch && j.configs[h.Epoch] != nil {
		s.use(j.configs[h.Epoch]) // the block that brought it could not be read
	}
	if why := s.follows(h); why != "" {
		j.add(Violation{Class: Gap, Node: w.node.Name, Height: s.height, Detail: why})
	}
	if err := b.Certificate.Verify(h, s.set); err != nil {
		j.add(Violation{Class: Certificate, Node: w.node.Name, Height: s.height, Detail: err.Error()})
	}
	s.prev, s.time = hash, h.Time
	if err := consortium.CheckBody(h, b.Body); err != nil {
		j.add(Violation{Class: Damaged, Node: w.node.Name, Height: s.height, Detail: err.Error()})
		w.bad[s.height] = err.Error()
	}
	j.judgeRecords(w, s, b, seen)
}

// follows tells what in h does not follow from the blocks before it.
func (s *state) follows(h *consortium.Header) string {
	switch {
	case h.Genesis != s.genesis:
		return fmt.Sprintf("its genesis is %s, want %s", h.Genesis, s.genesis)
	case h.Height != s.height:
		return fmt.Sprintf("the header says height %d", h.Height)
	case !s.prev.IsZero() && h.Prev != s.prev:
		return fmt.Sprintf("it follows %s, the block before is %s", h.Prev, s.prev)
	case h.Time <= s.time:
		return fmt.Sprintf("its time is %d, that of the block before %d", h.Time, s.time)
	case h.Epoch != s.config.Epoch:
		return fmt.Sprintf("its epoch is %d, %d config records stand before it", h.Epoch, s.config.Epoch)
	}
	return ""
}

// judgeRecords looks into the body, and takes the config that it brings.
func (j *judge) judgeRecords(w *walked, s *state, b *consortium.Block, seen map[chain.Hash]place) {
	at := s.height - 1
	same := w.bad[s.height] == "" && w.hash(s.height) == j.hashes[at]
	if same && j.filled[at] {
		// The same header fixes the same body, which was judged at another
		// node; a twin in it was found there.
		j.takeConfig(w, s, b)
		return
	}
	all := ids(b.Body)
	for i, id := range all {
		here := place{s.height, uint32(i)}
		before, twice := seen[id]
		if p, known := j.places[id]; known && !twice && p.height != s.height && w.hash(p.height) == j.hashes[p.height-1] {
			before, twice = p, true
		}
		if twice {
			j.add(Violation{Class: Duplicate, Node: w.node.Name, Height: s.height, Record: id, Detail: fmt.Sprintf("it stands at %v and at %v", before, here)})
			j.Duplicated++
			continue
		}
		seen[id] = here
		if same {
			j.places[id] = here
			j.Records++
		}
	}
	if same {
		j.filled[at] = true
	} else {
		w.own[s.height] = all
	}
	j.checkSignatures(w, s, b)
	j.takeConfig(w, s, b)
}

// checkSignatures verifies what the authors signed: the one thing in a block
// that its header does not prove.
func (j *judge) checkSignatures(w *walked, s *state, b *consortium.Block) {
	for _, st := range b.Body {
		for _, raw := range st.Records {
			r, err := consortium.DecodeRecord(raw)
			if err == nil {
				err = r.Verify(s.genesis)
			}
			if err != nil {
				j.add(Violation{Class: Damaged, Node: w.node.Name, Height: s.height, Record: consortium.RecordID(raw), Detail: err.Error()})
			}
		}
	}
}

// takeConfig applies a config block, and checks which set signs the next one.
func (j *judge) takeConfig(w *walked, s *state, b *consortium.Block) {
	if next, err := configOf(s, b); err != nil {
		j.add(Violation{Class: Damaged, Node: w.node.Name, Height: s.height, Detail: fmt.Sprintf("config: %v", err)})
	} else if next != nil {
		s.use(next)
		if j.configs[next.Epoch] == nil {
			j.configs[next.Epoch] = next
		}
	}
	if b.Header.NextSet != s.set.Hash() {
		j.add(Violation{Class: Gap, Node: w.node.Name, Height: s.height, Detail: fmt.Sprintf("the header names %s as the next set, the records give %s", b.Header.NextSet, s.set.Hash())})
	}
}

// configOf is the config that b brings, nil for none.
func configOf(s *state, b *consortium.Block) (*consortium.Config, error) {
	for _, st := range b.Body {
		for _, raw := range st.Records {
			r, err := consortium.DecodeRecord(raw)
			if err != nil || r.Kind != consortium.KindConfig {
				continue
			}
			if b.Body.Records() != 1 {
				return nil, fmt.Errorf("a config record among %d records", b.Body.Records())
			}
			change, err := consortium.DecodeConfigChange(r.Body)
			if err != nil {
				return nil, err
			}
			if err := consortium.CheckChange(s.config, change, s.genesis); err != nil {
				return nil, err
			}
			return &change.Config, nil
		}
	}
	return nil, nil
}

// compareHeader compares with the first node that has this height.
func (j *judge) compareHeader(w *walked, height uint64, hash chain.Hash) {
	for uint64(len(j.hashes)) < height { // more than one where a node before could not read some
		j.hashes = append(j.hashes, chain.Hash{})
		j.owner = append(j.owner, "")
		j.filled = append(j.filled, false)
	}
	at := height - 1
	if j.owner[at] == "" {
		j.hashes[at], j.owner[at] = hash, w.node.Name
		return
	}
	if j.hashes[at] == hash {
		return
	}
	j.add(Violation{Class: Disagreement, Node: w.node.Name, Height: height, Detail: fmt.Sprintf("its header is %s, that of %s is %s", hash, j.owner[at], j.hashes[at])})
	if j.forked == nil {
		j.forked = map[uint64]bool{}
	}
	if !j.forked[height] {
		j.forked[height] = true
		j.Disagreements++
	}
}

func (j *judge) compareHeads() {
	for _, w := range j.walks {
		if w.height < j.Height {
			j.add(Violation{Class: Behind, Node: w.node.Name, Height: w.height, Detail: fmt.Sprintf("the highest head is %d", j.Height)})
		}
	}
}
