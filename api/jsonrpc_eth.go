package api

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
)

// hexNumber writes a number as Ethereum does.
func hexNumber[N int | int64 | uint32 | uint64](n N) string {
	return "0x" + strconv.FormatUint(uint64(n), 16)
}

func hexHash(h chain.Hash) string { return "0x" + h.String() }

// rpcMeta tells of the services themselves.
type rpcMeta struct{ s *Server }

// Modules lists the services that the caller may use.
func (m *rpcMeta) Modules(ctx context.Context) map[string]string {
	list := map[string]string{"eth": "1.0", "net": "1.0", "rpc": "1.0", "web3": "1.0", "parley": "1.0"}
	if m.s.rpcPermit(ctx, "admin_peers") == nil {
		list["admin"] = "1.0"
	}
	return list
}

// Denied is carried out in place of what the caller may not do.
func (m *rpcMeta) Denied(ctx context.Context) error {
	p := m.s.permit(callerOf(ctx), admin)
	if p == nil { // its token ran out
		p = unauthenticated.problem("the token has expired, or its secret is gone: connect with a new one")
		p.refused = "token"
	}
	if p.refused != "" {
		m.s.metrics.refused.WithLabelValues(p.refused).Inc()
	}
	return &rpcError{rpcUnauthorized, "unauthorized", rpcErrorData{Code: unauthenticated.code, Detail: p.Detail}}
}

type rpcWeb3 struct{ s *Server }

func (w *rpcWeb3) ClientVersion() string { return w.s.node.Info().Agent + "/" + w.s.node.Version().Go }

type rpcNet struct{ s *Server }

func (n *rpcNet) PeerCount() string { return hexNumber(n.s.node.PeerCount().Connected) }
func (n *rpcNet) Listening() bool   { return len(n.s.node.Info().Listen) > 0 }

func (n *rpcNet) Version() (string, error) {
	id, err := n.s.networkNumber()
	return strconv.FormatUint(uint64(id), 10), err
}

// networkNumber stands for the chain where others have a number: the first
// bytes of its genesis hash.
func (s *Server) networkNumber() (uint32, error) {
	c, err := s.node.Chain()
	if err != nil {
		return 0, s.rpcFault(err)
	}
	return binary.BigEndian.Uint32(c.GenesisHash[:]), nil
}

type rpcEth struct{ s *Server }

// ChainId is eth_chainId: its name makes the method's.
func (e *rpcEth) ChainId() (string, error) {
	id, err := e.s.networkNumber()
	return hexNumber(id), err
}

func (e *rpcEth) BlockNumber() (string, error) {
	c, err := e.s.node.Chain()
	if err != nil {
		return "", e.s.rpcFault(err)
	}
	return hexNumber(c.Height), nil
}

// ethSyncing is how far a node is that catches up.
type ethSyncing struct {
	StartingBlock string `json:"startingBlock"` // the head when this node started
	CurrentBlock  string `json:"currentBlock"`
	HighestBlock  string `json:"highestBlock"`
}

// Syncing answers false, or an *ethSyncing.
func (e *rpcEth) Syncing() any {
	st := e.s.node.Status()
	if st.Sync.State == "synced" {
		return false
	}
	head := uint64(0)
	if st.Head != nil {
		head = st.Head.Height
	}
	return &ethSyncing{hexNumber(e.s.rpcFrom), hexNumber(head), hexNumber(max(head, st.Sync.Target))}
}

// ethBlock is a block in Ethereum's words.
type ethBlock struct {
	Number       string   `json:"number"`
	Hash         string   `json:"hash"`
	ParentHash   string   `json:"parentHash"`
	Timestamp    string   `json:"timestamp"` // in seconds
	Size         string   `json:"size"`
	Transactions []string `json:"transactions"` // ids of records
	Miner        string   `json:"miner"`        // 20 bytes of the SHA-256 of the proposer's peer id
}

// GetBlockByNumber answers nil for a block that there is not. Records are ids
// whether full or not: they are no transactions of Ethereum.
func (e *rpcEth) GetBlockByNumber(ctx context.Context, tag string, _ *bool) (*ethBlock, error) {
	var ref string
	switch tag {
	case "latest", "pending", "safe", "finalized":
		c, err := e.s.node.Chain()
		if err != nil {
			return nil, e.s.rpcFault(err)
		}
		ref = strconv.FormatUint(c.Height, 10)
	case "earliest":
		ref = "0"
	default:
		digits, ok := strings.CutPrefix(tag, "0x")
		n, err := strconv.ParseUint(digits, 16, 64)
		if !ok || err != nil {
			return nil, badParams("block number: want latest, earliest, pending, safe, finalized or a number such as 0x1b4")
		}
		ref = strconv.FormatUint(n, 10)
	}
	leave := e.s.lists.take(ctx, callerOf(ctx), rpcAddr(ctx))
	if leave == nil {
		return nil, e.s.rpcFault(rateLimited.problem(e.s.lists.busy))
	}
	defer leave()
	b, ids, err := e.block(ref)
	if errors.Is(err, parley.ErrNotFound) || errors.Is(err, parley.ErrBadRef) { // of a height that JSON cannot say
		return nil, nil //nolint:nilnil // null is the answer
	}
	if err != nil {
		return nil, e.s.rpcFault(err)
	}
	v := &ethBlock{
		Number: hexNumber(b.Height), Hash: hexHash(b.Hash), ParentHash: hexHash(b.PrevHash), Timestamp: hexNumber(b.Time.Unix()),
		Size: hexNumber(b.SizeBytes), Transactions: make([]string, len(ids)), Miner: "0x" + strings.Repeat("0", 40),
	}
	for i, id := range ids {
		v.Transactions[i] = hexHash(id)
	}
	if b.Proposer != nil {
		v.Miner = "0x" + digestOf(b.Proposer.Peer)[:40]
	}
	return v, nil
}

func (e *rpcEth) block(ref string) (parley.Block, []chain.Hash, error) {
	b, err := e.s.node.Block(ref)
	if err != nil {
		return b, nil, err
	}
	ids, err := e.s.node.BlockRecordIDs(ref)
	return b, ids, err
}

// digestOf is what stands for a peer where 32 bytes are wanted, in hex.
func digestOf(id peer.ID) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}
