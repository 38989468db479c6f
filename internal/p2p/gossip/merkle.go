package gossip

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// Each kind of hash begins with a byte of its own, so that none can be taken
// for another.
const (
	leafHash byte = iota
	nodeHash
	manifestHash
)

func leafOf(index int, data []byte) chain.Hash {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32([]byte{leafHash}, uint32(index)))
	h.Write(data)
	return chain.Hash(h.Sum(nil))
}

func nodeOf(left, right chain.Hash) chain.Hash {
	return sha256.Sum256(append(append([]byte{nodeHash}, left[:]...), right[:]...))
}

// largeID names a message by all that its manifest tells. So what has one id is
// the same bytes on the same topic of the same network, and nobody can have
// others judge chunks by a false size.
func largeID(m wire.Manifest) chain.Hash {
	return sha256.Sum256(append([]byte{manifestHash}, m.Encode()...))
}

// chunkSize is that of a message of size bytes.
func chunkSize(size int) int {
	switch {
	case size <= 256<<10:
		return 16 << 10
	case size <= 2<<20:
		return 32 << 10
	}
	return wire.MaxChunk
}

// treeOf gives the levels of the tree over leaves, its top last. An odd node
// moves up as it is.
func treeOf(leaves []chain.Hash) [][]chain.Hash {
	levels := [][]chain.Hash{leaves}
	for len(leaves) > 1 {
		var up []chain.Hash
		for i := 0; i < len(leaves); i += 2 {
			if i+1 < len(leaves) {
				up = append(up, nodeOf(leaves[i], leaves[i+1]))
			} else {
				up = append(up, leaves[i])
			}
		}
		leaves = up
		levels = append(levels, leaves)
	}
	return levels
}

// branchOf is what stands beside the way of leaf i to the top, from below.
func branchOf(levels [][]chain.Hash, i int) (branch []chain.Hash) {
	for _, level := range levels {
		if beside := i ^ 1; beside < len(level) {
			branch = append(branch, level[beside])
		}
		i /= 2
	}
	return branch
}

// climb gives the top of a tree of n leaves that has leaf at i and branch beside
// its way; false where the branch has not its length.
func climb(leaf chain.Hash, i, n int, branch []chain.Hash) (top chain.Hash, ok bool) {
	for ; n > 1; i, n = i/2, (n+1)/2 {
		if i^1 >= n {
			continue
		}
		if len(branch) == 0 {
			return top, false
		}
		if i%2 == 0 {
			leaf = nodeOf(leaf, branch[0])
		} else {
			leaf = nodeOf(branch[0], leaf)
		}
		branch = branch[1:]
	}
	return leaf, len(branch) == 0
}
