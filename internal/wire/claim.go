package wire

import (
	"math"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Limits of what claims carry.
const (
	SubtreeRecords = 256 // record ids in one subtree
	MaxReason      = 32  // bytes of a reason of LEDGER 5
	maxWord        = 64  // bytes of a version, commit or state
	maxPeerID      = 64  // bytes of a peer ID, 38 for Ed25519
)

// Claim is the payload of the signed envelope around messages that do not
// authenticate themselves. Its origin is the envelope's signer.
type Claim struct {
	TimeMS uint64 // since 1970, by the origin's clock
	Seq    uint64 // rises with each claim of one origin
	Body   []byte // the topic's message
}

// Encode writes c.
func (c Claim) Encode() []byte {
	b := make([]byte, 0, len(c.Body)+32)
	b = putUint(b, 1, c.TimeMS)
	b = putUint(b, 2, c.Seq)
	return putBytes(b, 3, c.Body)
}

// DecodeClaim has no limit of its own and takes no memory: the topic bounds b,
// and the decoder of the body bounds the rest.
func DecodeClaim(b []byte) (Claim, error) {
	var c Claim
	f := scan("claim", b, len(b))
	for f.next() {
		switch f.num {
		case 1:
			c.TimeMS = f.uint(maxNumber)
		case 2:
			c.Seq = f.uint(math.MaxUint64)
		case 3:
			c.Body = f.bytes(len(b))
		}
	}
	return result(c, &f)
}

// Subtree is the leader's hint of a subtree ahead of its block. A view change
// may discard it.
type Subtree struct {
	ID      chain.Hash
	Height  uint64
	Index   uint32       // place in the block, below Count
	Count   uint32       // subtrees in the block
	Records []chain.Hash // record ids in order
}

// Encode gives at most MaxSubtree bytes within the fields' limits.
func (s Subtree) Encode() []byte {
	b := make([]byte, 0, len(s.Records)*hashSize+64)
	b = putHash(b, 1, s.ID)
	b = putUint(b, 2, s.Height)
	b = putUint(b, 3, uint64(s.Index))
	b = putUint(b, 4, uint64(s.Count))
	return putHashes(b, 5, s.Records)
}

// DecodeSubtree refuses a place outside of the block and a subtree without
// records; whether the id fits the records is the caller's to check.
func DecodeSubtree(b []byte) (Subtree, error) {
	var s Subtree
	f := scan("subtree", b, MaxSubtree)
	for f.next() {
		switch f.num {
		case 1:
			s.ID = f.hash()
		case 2:
			s.Height = f.uint(maxNumber)
		case 3:
			s.Index = uint32(f.uint(MaxSubtrees - 1))
		case 4:
			s.Count = uint32(f.uint(MaxSubtrees))
		case 5:
			s.Records = f.hashes(SubtreeRecords)
		}
	}
	if s.Index >= s.Count {
		f.num = 3
		f.malformed("index %d of %d", s.Index, s.Count)
	}
	if len(s.Records) == 0 {
		f.num = 5
		f.malformed("no record ids")
	}
	return result(s, &f)
}

// MiningOn is a proposer's word that its block is committed.
type MiningOn struct {
	Hash        chain.Hash
	PrevHash    chain.Hash
	Height      uint64
	Miner       string
	SizeBytes   uint32
	RecordCount uint32
}

// Encode gives at most MaxMiningOn bytes.
func (m MiningOn) Encode() []byte {
	var b []byte
	b = putHash(b, 1, m.Hash)
	b = putHash(b, 2, m.PrevHash)
	b = putUint(b, 3, m.Height)
	b = putText(b, 4, m.Miner, MaxName)
	b = putUint(b, 5, uint64(m.SizeBytes))
	return putUint(b, 6, uint64(m.RecordCount))
}

// DecodeMiningOn reads a MiningOn.
func DecodeMiningOn(b []byte) (MiningOn, error) {
	var m MiningOn
	f := scan("mining_on", b, MaxMiningOn)
	for f.next() {
		switch f.num {
		case 1:
			m.Hash = f.hash()
		case 2:
			m.PrevHash = f.hash()
		case 3:
			m.Height = f.uint(maxNumber)
		case 4:
			m.Miner = f.text(MaxName)
		case 5:
			m.SizeBytes = uint32(f.uint(math.MaxUint32))
		case 6:
			m.RecordCount = uint32(f.uint(math.MaxUint32))
		}
	}
	return result(m, &f)
}

// RejectedTx is a validator's word that a record will never be committed. It
// moves nothing at others.
type RejectedTx struct {
	ID     chain.Hash
	Reason string // of LEDGER 5
	Detail string
	Height uint64
	Author [32]byte // public key
}

// Encode gives at most MaxRejectedTx bytes.
func (r RejectedTx) Encode() []byte {
	var b []byte
	b = putHash(b, 1, r.ID)
	b = putText(b, 2, r.Reason, MaxReason)
	b = putText(b, 3, r.Detail, MaxText)
	b = putUint(b, 4, r.Height)
	return putHash(b, 5, r.Author)
}

// DecodeRejectedTx does not check that the reason is a known one.
func DecodeRejectedTx(b []byte) (RejectedTx, error) {
	var r RejectedTx
	f := scan("rejected_tx", b, MaxRejectedTx)
	for f.next() {
		switch f.num {
		case 1:
			r.ID = f.hash()
		case 2:
			r.Reason = f.text(MaxReason)
		case 3:
			r.Detail = f.text(MaxText)
		case 4:
			r.Height = f.uint(maxNumber)
		case 5:
			r.Author = f.hash()
		}
	}
	return result(r, &f)
}

// BestBlock is a node's word for its head. At height 0 Hash is the genesis.
type BestBlock struct {
	Hash   chain.Hash
	Height uint64
}

// Encode gives at most MaxBestBlock bytes.
func (h BestBlock) Encode() []byte {
	return putUint(putHash(nil, 1, h.Hash), 2, h.Height)
}

// DecodeBestBlock reads a BestBlock.
func DecodeBestBlock(b []byte) (BestBlock, error) {
	var h BestBlock
	f := scan("best_block", b, MaxBestBlock)
	for f.next() {
		switch f.num {
		case 1:
			h.Hash = f.hash()
		case 2:
			h.Height = f.uint(maxNumber)
		}
	}
	return result(h, &f)
}

// NodeStatus carries the fields of the WebSocket frame node_status, but its
// timestamp and peer_id: these are the claim's time and the claim's signer.
type NodeStatus struct {
	ClientName      string
	BaseURL         string // not checked here
	Version         string
	CommitHash      string
	BestBlockHash   chain.Hash
	BestHeight      uint64
	TxCount         uint64
	SubtreeCount    uint32
	FSMState        string // IDLE | RUNNING | CATCHINGBLOCKS
	StartTime       uint64 // unix seconds
	UptimeMS        uint64
	MinerName       string
	ListenMode      string
	ChainWork       string
	ConnectedPeers  uint32
	Storage         string
	SyncPeer        peer.ID // "" = none
	SyncPeerHeight  uint64
	SyncPeerHash    chain.Hash
	SyncConnectedAt uint64 // unix seconds
}

// Encode gives at most MaxNodeStatus bytes.
func (s NodeStatus) Encode() []byte {
	var b []byte
	b = putText(b, 1, s.ClientName, MaxName)
	b = putText(b, 2, s.BaseURL, MaxBaseURL)
	b = putText(b, 3, s.Version, maxWord)
	b = putText(b, 4, s.CommitHash, maxWord)
	b = putHash(b, 5, s.BestBlockHash)
	b = putUint(b, 6, s.BestHeight)
	b = putUint(b, 7, s.TxCount)
	b = putUint(b, 8, uint64(s.SubtreeCount))
	b = putText(b, 9, s.FSMState, maxWord)
	b = putUint(b, 10, s.StartTime)
	b = putUint(b, 11, s.UptimeMS)
	b = putText(b, 12, s.MinerName, MaxName)
	b = putText(b, 13, s.ListenMode, maxWord)
	b = putText(b, 14, s.ChainWork, maxWord)
	b = putUint(b, 15, uint64(s.ConnectedPeers))
	b = putText(b, 16, s.Storage, maxWord)
	b = putBytes(b, 17, []byte(s.SyncPeer))
	b = putUint(b, 18, s.SyncPeerHeight)
	b = putHash(b, 19, s.SyncPeerHash)
	return putUint(b, 20, s.SyncConnectedAt)
}

// DecodeNodeStatus reads a NodeStatus.
func DecodeNodeStatus(b []byte) (NodeStatus, error) {
	var s NodeStatus
	f := scan("node_status", b, MaxNodeStatus)
	for f.next() {
		switch f.num {
		case 1:
			s.ClientName = f.text(MaxName)
		case 2:
			s.BaseURL = f.text(MaxBaseURL)
		case 3:
			s.Version = f.text(maxWord)
		case 4:
			s.CommitHash = f.text(maxWord)
		case 5:
			s.BestBlockHash = f.hash()
		case 6:
			s.BestHeight = f.uint(maxNumber)
		case 7:
			s.TxCount = f.uint(maxNumber)
		case 8:
			s.SubtreeCount = uint32(f.uint(math.MaxUint32))
		case 9:
			s.FSMState = f.text(maxWord)
		case 10:
			s.StartTime = f.uint(maxNumber)
		case 11:
			s.UptimeMS = f.uint(maxNumber)
		case 12:
			s.MinerName = f.text(MaxName)
		case 13:
			s.ListenMode = f.text(maxWord)
		case 14:
			s.ChainWork = f.text(maxWord)
		case 15:
			s.ConnectedPeers = uint32(f.uint(math.MaxUint32))
		case 16:
			s.Storage = f.text(maxWord)
		case 17:
			s.SyncPeer = f.peer()
		case 18:
			s.SyncPeerHeight = f.uint(maxNumber)
		case 19:
			s.SyncPeerHash = f.hash()
		case 20:
			s.SyncConnectedAt = f.uint(maxNumber)
		}
	}
	return result(s, &f)
}

// peer reads a peer ID, or none for "".
func (f *fields) peer() peer.ID {
	p := f.bytes(maxPeerID)
	if len(p) == 0 {
		return ""
	}
	id, err := peer.IDFromBytes(p)
	if err != nil {
		f.malformed("no peer ID: %v", err)
	}
	return id
}
