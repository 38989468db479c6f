package parley

import (
	"encoding/json"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// The types below are the answers of the node's face. Their JSON form is the
// body of the native routes, so that the library, the API and the command line
// show one and the same thing.

// Version says what this binary is.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	API     int    `json:"api"`
}

// Status is one screen about the node.
type Status struct {
	Version       string        `json:"version"`
	Network       string        `json:"network"`
	NetworkName   string        `json:"network_name"`
	ChainID       string        `json:"chain_id"`
	PeerID        peer.ID       `json:"peer_id"`
	Name          string        `json:"name"`
	Role          string        `json:"role"`    // validator | follower, of a sidecar network attached | detached
	Verdict       string        `json:"verdict"` // healthy | degraded | waiting
	Reasons       []string      `json:"reasons"`
	UptimeS       float64       `json:"uptime_s"`
	Peers         StatusPeers   `json:"peers"`
	Head          *StatusHead   `json:"head"` // null until the chain is known
	Sync          Sync          `json:"sync"`
	Mempool       MempoolState  `json:"mempool"`
	Bans          int           `json:"bans"`                   // targets
	Alarms        []Alarm       `json:"alarms"`                 // that stand
	Validators    *ValidatorsN  `json:"validators"`             // null until the chain is known
	Verification  *Verification `json:"verification,omitempty"` // of a restored backup; absent on other nodes
	TransportsOff []string      `json:"transports_off"`
}

// StatusPeers counts the ready peers.
type StatusPeers struct {
	Inbound  int `json:"inbound"`
	Outbound int `json:"outbound"`
	Known    int `json:"known"`
	Target   int `json:"target"` // outbound ones that are kept, of those that were found
}

// Alarm is something that looks like an attack, or like a fault that would help
// one, and stands.
type Alarm = event.Alarm

// StatusHead is the tip with its age.
type StatusHead struct {
	Height uint64     `json:"height"`
	Hash   chain.Hash `json:"hash"`
	Time   time.Time  `json:"time"`
	AgeS   float64    `json:"age_s"`
}

// Sync tells how far the replica is behind what it knows to exist.
type Sync struct {
	State     string  `json:"state"` // waiting | syncing | synced
	Target    uint64  `json:"target"`
	LagBlocks uint64  `json:"lag_blocks"`
	ETAS      float64 `json:"eta_s"`    // 0 = not known
	BlocksS   float64 `json:"blocks_s"` // stored, over the last seconds; 0 unless syncing
	BytesS    float64 `json:"bytes_s"`  // of their bodies
}

// Verification tells how far the chain of a restored backup was verified.
type Verification struct {
	State  string  `json:"state"` // running | good | damaged
	Done   uint64  `json:"done"`  // blocks
	Total  uint64  `json:"total"`
	ETAS   float64 `json:"eta_s"`
	Detail string  `json:"detail,omitempty"` // what is damaged
}

// MempoolState counts the records that wait for a block.
type MempoolState struct {
	Records int   `json:"records"`
	Bytes   int64 `json:"bytes"`
}

// Info is what the node is and where it listens.
type Info struct {
	PeerID     peer.ID   `json:"peer_id"`
	Name       string    `json:"name"`
	Agent      string    `json:"agent"`
	Listen     []string  `json:"listen"`
	Advertised []string  `json:"advertised"`
	ENR        *string   `json:"enr"` // null: this network has none
	Protocols  []string  `json:"protocols"`
	Started    time.Time `json:"started"`
	KeyType    string    `json:"key_type"`
}

// Health is the answer of readiness, check by check.
type Health struct {
	Status string  `json:"status"` // ready | not_ready | dead
	Checks []Check `json:"checks"`
}

// Check is one condition of [Health].
type Check struct {
	Name      string  `json:"name"`
	OK        bool    `json:"ok"`
	Have      *int    `json:"have,omitempty"`
	Want      *int    `json:"want,omitempty"`
	LagBlocks *uint64 `json:"lag_blocks,omitempty"`
	Note      string  `json:"note,omitempty"`
}

// Peer is a peer that is connected or known.
type Peer struct {
	ID          peer.ID     `json:"id"`
	State       string      `json:"state"` // connected | known
	Ready       bool        `json:"ready"`
	Direction   string      `json:"direction"`
	Slot        string      `json:"slot"`
	Source      string      `json:"source"`
	Address     string      `json:"address"` // host:port, of the API where known
	Addr        string      `json:"addr"`
	Transport   string      `json:"transport"`
	Security    string      `json:"security"`
	Agent       string      `json:"agent"`
	Name        string      `json:"name"`
	BaseURL     string      `json:"base_url"`
	Services    []string    `json:"services"`
	LatencyMS   float64     `json:"latency_ms"`
	ConnectedAt time.Time   `json:"connected_at,omitzero"`
	LastSeen    time.Time   `json:"last_seen,omitzero"`
	BytesIn     int64       `json:"bytes_in"`
	BytesOut    int64       `json:"bytes_out"`
	Static      bool        `json:"static"`
	Trusted     bool        `json:"trusted"`
	Claimed     *chain.Head `json:"claimed,omitempty"`
	Validated   *chain.Head `json:"validated,omitempty"`
	Mesh        []string    `json:"mesh"`
	Score       int         `json:"score"`
	Points      int         `json:"points"`
	Standing    string      `json:"standing"`
	GossipScore float64     `json:"gossip_score"`
	Group       string      `json:"group"` // of its address, as the address book groups; "" = it has none
	ASN         *uint32     `json:"asn"`   // by p2p.as_map_file; null = not known
}

// PeerCount counts peers by kind.
type PeerCount struct {
	Connected int         `json:"connected"`
	Inbound   int         `json:"inbound"`
	Outbound  int         `json:"outbound"`
	Known     int         `json:"known"`
	Static    StaticCount `json:"static"`
}

// StaticCount counts the static peers.
type StaticCount struct {
	Connected  int `json:"connected"`
	Configured int `json:"configured"`
}

// StaticPeer is a peer that the node keeps for ever, with its retry state.
type StaticPeer struct {
	Item       string     `json:"item"`
	ID         peer.ID    `json:"id,omitempty"`
	Origin     string     `json:"origin"` // config | api | member
	State      string     `json:"state"`  // connected | trying | paused
	Class      string     `json:"class"`
	Tries      int        `json:"tries"`
	LastError  string     `json:"last_error"`                  // in plain words
	WholeError string     `json:"last_error_detail,omitempty"` // as it came, with what each address gave
	NextAt     *time.Time `json:"next_at"`
	Addresses  []string   `json:"addresses"`
	Resting    []string   `json:"resting"` // of them: not tried for now, since they failed for a lasting reason
}

// Chain sums up the chain.
type Chain struct {
	ChainID           string      `json:"chain_id"`
	GenesisHash       chain.Hash  `json:"genesis_hash"`
	Height            uint64      `json:"height"`
	BlockCount        uint64      `json:"block_count"`
	RecordCount       uint64      `json:"record_count"`
	Head              StatusHead  `json:"head"`
	Role              string      `json:"role"`
	Validators        ValidatorsN `json:"validators"`
	Sync              Sync        `json:"sync"`
	ExpectedIntervalS float64     `json:"expected_interval_s"`

	Epoch     uint64                 `json:"epoch"`     // config records applied so far
	Admins    []consortium.PublicKey `json:"admins"`    // whose approvals change the validators
	Threshold int                    `json:"threshold"` // so many of them must approve
}

// ValidatorsN counts the validators, of whom Connected include this node.
type ValidatorsN struct {
	N         int      `json:"n"`
	Connected int      `json:"connected"`
	Quorum    int      `json:"quorum"`
	Spare     int      `json:"spare"`         // so many more may go until nothing is written any more
	Away      []string `json:"away,omitzero"` // names, else peer ids, of those that are not connected; absent where there are no validators
}

// PeerHead is a peer's head as it says and as it proved.
type PeerHead struct {
	Peer      peer.ID     `json:"peer"`
	Name      string      `json:"name"`
	Claimed   *chain.Head `json:"claimed,omitempty"`
	Validated *chain.Head `json:"validated,omitempty"`
	TrailsBy  int64       `json:"trails_by"` // blocks behind us; below 0 it is ahead
}

// Validator is one member of the set that signs the next block.
type Validator struct {
	ID        uint64               `json:"id"`
	Key       consortium.PublicKey `json:"key"`
	Peer      peer.ID              `json:"peer"`
	Name      string               `json:"name"`
	Connected bool                 `json:"connected"`
	Leader    bool                 `json:"leader"`
	Height    uint64               `json:"height"`
}

// Block is a block as the API shows it. Height 0 is the genesis.
type Block struct {
	Height      uint64            `json:"height"`
	Hash        chain.Hash        `json:"hash"`
	PrevHash    chain.Hash        `json:"prev_hash"`
	Time        time.Time         `json:"time"`
	Epoch       uint64            `json:"epoch"`
	Proposer    *BlockProposer    `json:"proposer"` // null for the genesis
	RecordCount int               `json:"record_count"`
	SizeBytes   int               `json:"size_bytes"`
	Root        chain.Hash        `json:"root"`
	Subtrees    []BlockSubtree    `json:"subtrees"`
	Certificate *BlockCertificate `json:"certificate"` // null for the genesis
	Raw         BlockRaw          `json:"raw"`
}

// BlockProposer is who proposed a block.
type BlockProposer struct {
	Validator uint64  `json:"validator"`
	Peer      peer.ID `json:"peer"`
	Name      string  `json:"name"`
}

// BlockSubtree is one subtree of a block.
type BlockSubtree struct {
	ID      chain.Hash `json:"id"`
	Records int        `json:"records"`
}

// BlockCertificate says who signed a block, and in which view of the engine.
type BlockCertificate struct {
	View    uint64   `json:"view"`
	Quorum  int      `json:"quorum"`
	Signers []uint64 `json:"signers"`
}

// BlockRaw is the canonical bytes in hex; for the genesis Header holds them.
type BlockRaw struct {
	Header      string `json:"header"`
	Certificate string `json:"certificate"`
}

// Record is a record with its state.
type Record struct {
	ID         chain.Hash      `json:"id"`
	Kind       string          `json:"kind"` // record | config
	Subject    string          `json:"subject"`
	MediaType  string          `json:"media_type"`
	Body       json.RawMessage `json:"body,omitempty"` // where the media type is JSON and the body parses
	BodyBase64 []byte          `json:"body_base64,omitempty"`
	Author     string          `json:"author"` // 64 hex digits
	Nonce      uint64          `json:"nonce"`
	NotAfter   uint64          `json:"not_after"`
	Sig        string          `json:"sig"`
	Status     string          `json:"status"` // pending | committed | rejected
	Height     *uint64         `json:"height,omitempty"`
	Index      *uint32         `json:"index,omitempty"`
	BlockHash  *chain.Hash     `json:"block_hash,omitempty"`
	Reason     *string         `json:"reason"` // of the rejection, or why a pending record cannot be committed in this epoch
	Raw        string          `json:"raw"`    // hex
}

// Draft is a record as a client hands it in: either Raw, or Author, Nonce and
// Sig with the content, or the content alone, which the node signs.
type Draft struct {
	Subject    string          `json:"subject,omitempty"`
	MediaType  string          `json:"media_type,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	BodyBase64 []byte          `json:"body_base64,omitempty"`
	Nonce      *uint64         `json:"nonce,omitempty"`
	NotAfter   uint64          `json:"not_after,omitempty"`
	Author     string          `json:"author,omitempty"`
	Sig        string          `json:"sig,omitempty"`
	Raw        string          `json:"raw,omitempty"`
}

// Ack is how far a submitted record must have come before Submit answers.
type Ack string

// The two levels of acknowledgement.
const (
	Accepted  Ack = "accepted"  // verified, and in this node's journal on disk
	Committed Ack = "committed" // in a block with its certificate, on this node's disk
)

// Range selects a page of an ordered list.
type Range struct {
	Desc  bool
	Limit int    // 1–1000
	After string // cursor of the page before, "" = from the start
}
