package consortium

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/parley-p2p/parley/chain"
)

// First bytes of what is hashed, so that no level can pose as another.
const (
	prefixLeaf    byte = 0 // 0 ‖ record id
	prefixNode    byte = 1 // 1 ‖ left ‖ right, inside a subtree
	prefixSubtree byte = 2 // 2 ‖ u16 count ‖ root
	prefixBlock   byte = 3 // 3 ‖ left ‖ right, over subtree ids
)

// SubtreeID is the id of a subtree with the records ids, in their order, at
// least one.
func SubtreeID(ids []chain.Hash) chain.Hash {
	return subtreeID(len(ids), merkleRoot(prefixNode, len(ids), func(i int) chain.Hash { return leafHash(ids[i]) }))
}

func subtreeID(count int, root chain.Hash) chain.Hash {
	var buf [1 + 2 + 32]byte
	buf[0] = prefixSubtree
	binary.BigEndian.PutUint16(buf[1:], uint16(count))
	copy(buf[3:], root[:])
	return sha256.Sum256(buf[:])
}

// BlockRoot is the root over the ids of a block's subtrees: zero for none.
func BlockRoot(subtreeIDs []chain.Hash) chain.Hash {
	return merkleRoot(prefixBlock, len(subtreeIDs), func(i int) chain.Hash { return subtreeIDs[i] })
}

func leafHash(id chain.Hash) chain.Hash {
	var buf [1 + 32]byte
	buf[0] = prefixLeaf
	copy(buf[1:], id[:])
	return sha256.Sum256(buf[:])
}

func nodeHash(prefix byte, l, r chain.Hash) chain.Hash {
	var buf [1 + 2*32]byte
	buf[0] = prefix
	copy(buf[1:], l[:])
	copy(buf[1+32:], r[:])
	return sha256.Sum256(buf[:])
}

// merkleRoot is the root of a tree of RFC 6962 over n leaves; zero for n = 0.
func merkleRoot(prefix byte, n int, leaf func(i int) chain.Hash) chain.Hash {
	if n == 0 {
		return chain.Hash{}
	}
	return merkleNode(prefix, 0, n, leaf)
}

// merkleNode is the node over the leaves [from, to), at least one.
func merkleNode(prefix byte, from, to int, leaf func(i int) chain.Hash) chain.Hash {
	if to-from == 1 {
		return leaf(from)
	}
	mid := from + split(to-from)
	return nodeHash(prefix, merkleNode(prefix, from, mid, leaf), merkleNode(prefix, mid, to, leaf))
}

// split is the largest power of two below n > 1: the leaves left of the root.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// pathTo is the path from leaf index of n to the root.
func pathTo(prefix byte, index, n int, leaf func(i int) chain.Hash) Path {
	p := Path{Index: index, Count: n, Path: []chain.Hash{}}
	for from, to := 0, n; to-from > 1; { // from the root down, siblings turned round at the end
		mid := from + split(to-from)
		if index < mid {
			p.Path = append(p.Path, merkleNode(prefix, mid, to, leaf))
			to = mid
		} else {
			p.Path = append(p.Path, merkleNode(prefix, from, mid, leaf))
			from = mid
		}
	}
	slices.Reverse(p.Path)
	return p
}

// root is where the path leads from a leaf. The path MUST be as long as the
// leaf's place asks for.
func (p Path) root(prefix byte, leaf chain.Hash) (chain.Hash, error) {
	if p.Index < 0 || p.Index >= p.Count || p.Count > 1<<16 {
		return chain.Hash{}, fmt.Errorf("leaf %d of %d", p.Index, p.Count)
	}
	var left [16]bool // by level from the root: whether the sibling stands left
	depth := 0
	for from, to := 0, p.Count; to-from > 1; depth++ {
		mid := from + split(to-from)
		if left[depth] = p.Index >= mid; left[depth] {
			from = mid
		} else {
			to = mid
		}
	}
	if len(p.Path) != depth {
		return chain.Hash{}, fmt.Errorf("a path of %d hashes from leaf %d of %d: want %d", len(p.Path), p.Index, p.Count, depth)
	}
	for i, sibling := range p.Path {
		if left[depth-1-i] {
			leaf = nodeHash(prefix, sibling, leaf)
		} else {
			leaf = nodeHash(prefix, leaf, sibling)
		}
	}
	return leaf, nil
}
