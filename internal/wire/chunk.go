package wire

import (
	"math"

	"github.com/parley-p2p/parley/chain"
)

// Limits of large messages, which go in chunks (topic chunk).
const (
	MaxLarge      = 10 << 20         // bytes of a message
	MaxChunk      = 64 << 10         // bytes of it in one chunk
	MaxBranch     = 10               // hashes beside it
	MaxManifest   = 512              // bytes
	MaxChunkTopic = MaxChunk + 1<<10 // bytes of topic chunk
	maxTopicName  = 192              // on the wire, with the network
)

// Manifest tells of a large message: the body of a claim of who publishes it.
type Manifest struct {
	Topic     string     // its name on the wire: it is for one network
	Size      uint32     // bytes of the message
	ChunkSize uint32     // of every chunk but the last
	Root      chain.Hash // of the tree over the chunks
}

// Encode gives at most MaxManifest bytes.
func (m Manifest) Encode() []byte {
	b := putText(nil, 1, m.Topic, maxTopicName)
	b = putUint(b, 2, uint64(m.Size))
	b = putUint(b, 3, uint64(m.ChunkSize))
	return putHash(b, 4, m.Root)
}

// DecodeManifest reads a Manifest; whether its numbers fit together is the
// caller's to check.
func DecodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	f := scan("manifest", b, MaxManifest)
	for f.next() {
		switch f.num {
		case 1:
			m.Topic = f.text(maxTopicName)
		case 2:
			m.Size = uint32(f.uint(math.MaxUint32))
		case 3:
			m.ChunkSize = uint32(f.uint(math.MaxUint32))
		case 4:
			m.Root = f.hash()
		}
	}
	return result(m, &f)
}

// Chunk is a piece of what a manifest told of.
type Chunk struct {
	Message chain.Hash // that it is of
	Index   uint32
	Branch  []chain.Hash // beside its way to the root, from below
	Data    []byte
}

// IsChunk tells a message of topic chunk that is a Chunk from a manifest, whose
// envelope begins with a key, which no kind has of a hash's length.
func IsChunk(b []byte) bool { return len(b) > 2 && b[0] == 1<<3|2 && b[1] == byte(hashSize) }

// Encode gives at most MaxChunkTopic bytes within the fields' limits.
func (c Chunk) Encode() []byte {
	b := make([]byte, 0, len(c.Branch)*hashSize+len(c.Data)+64)
	b = putHash(b, 1, c.Message)
	b = putUint(b, 2, uint64(c.Index))
	b = putHashes(b, 3, c.Branch)
	return putBytes(b, 4, c.Data)
}

// DecodeChunk reads a Chunk, whose Data aliases b; whether it fits is the
// caller's to check.
func DecodeChunk(b []byte) (Chunk, error) {
	var c Chunk
	f := scan("chunk", b, MaxChunkTopic)
	for f.next() {
		switch f.num {
		case 1:
			c.Message = f.hash()
		case 2:
			c.Index = uint32(f.uint(math.MaxUint16))
		case 3:
			c.Branch = f.hashes(MaxBranch)
		case 4:
			c.Data = f.bytes(MaxChunk)
		}
	}
	return result(c, &f)
}
