// Package event owns what can happen on a node: one past-tense struct an
// event, which is one message of the event stream, and the bus.
package event

import (
	"encoding/json"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Event is something that happened. Its JSON form is the data of the message
// on the event stream; Type is the message's type and API.
type Event interface{ Type() string }

// NodeStarted says that every room runs.
type NodeStarted struct {
	Version string  `json:"version"`
	Network string  `json:"network"`
	Peer    peer.ID `json:"peer_id"`
}

// NodeStopping says that the node begins to drain.
type NodeStopping struct {
	Why string `json:"why"`
}

// ConfigReloaded says that the configuration was read again and taken over.
type ConfigReloaded struct {
	Changed []string `json:"changed"` // keys that act now; never null
}

// PeerConnected says that a first connection to a peer stands, before its
// handshake.
type PeerConnected struct {
	Peer      peer.ID `json:"peer"`
	Direction string  `json:"direction"` // inbound | outbound
	Addr      string  `json:"addr"`
	Transport string  `json:"transport"` // tcp | quic-v1 | ws
	Source    string  `json:"source"`    // static | member | anchor | inbound | outbound, or the kind of source that told of it
	Slot      string  `json:"slot"`      // static | outbound | block_only | feeler | inbound
}

// PeerReady says that the handshake with a peer ended well.
type PeerReady struct {
	PeerConnected
	Agent    string     `json:"agent"`
	Name     string     `json:"name"`
	Height   uint64     `json:"height"`
	Hash     chain.Hash `json:"hash"`
	Services []string   `json:"services"`
}

// PeerDisconnected says that the last connection to a peer is gone.
type PeerDisconnected struct {
	Peer      peer.ID `json:"peer"`
	Direction string  `json:"direction"`
	Addr      string  `json:"addr"`
	By        string  `json:"by"` // us | them
	Reason    string  `json:"reason"`
	Goodbye   uint64  `json:"goodbye"` // code, 0 = none came
	Text      string  `json:"text"`
	DurationS float64 `json:"duration_s"`
}

// PeerRefused says that a peer or connection was turned away. More counts the
// refusals that were left out since the last event, which come at most 10/s.
type PeerRefused struct {
	Peer      peer.ID `json:"peer,omitempty"`
	Direction string  `json:"direction"`
	Addr      string  `json:"addr"`
	Place     string  `json:"place"`  // handshake | gate | limits
	Reason    string  `json:"reason"` // as told to the other side
	By        string  `json:"by"`     // us | them
	More      int     `json:"more,omitempty"`
}

// PeerPenalized says that a peer was charged.
type PeerPenalized struct {
	Peer   peer.ID       `json:"peer"`
	Reason chain.Offence `json:"reason"`
	Points int           `json:"points"`
	Total  int           `json:"total"`
	Detail string        `json:"detail"`
}

// PeerBanned says that a peer, an address or a range is banned, or for longer
// than before. It is on disk by then.
type PeerBanned struct {
	Target   string     `json:"target"`
	Kind     string     `json:"kind"` // peer | cidr
	Reason   string     `json:"reason"`
	Note     string     `json:"note"`
	Origin   string     `json:"origin"` // operator | auto | import
	Actor    string     `json:"actor"`
	Created  time.Time  `json:"created"`
	Until    *time.Time `json:"until"` // null = for ever
	Offences int        `json:"offences"`
	Closes   []peer.ID  `json:"closes"` // connected peers that it cuts off
}

// PeerUnbanned says that a ban is over.
type PeerUnbanned struct {
	Target string `json:"target"`
	By     string `json:"by"` // who lifted it; time = it ended
}

// PeerDiscouraged says that a peer's points passed the line at which it is
// disconnected and kept away.
type PeerDiscouraged struct {
	Peer   peer.ID `json:"peer"`
	Points int     `json:"points"`
}

// StaticPeerChanged says that a peer which we want to keep changed its state.
type StaticPeerChanged struct {
	Item   string     `json:"item"`
	ID     peer.ID    `json:"id,omitempty"`
	State  string     `json:"state"` // connected | trying | paused | removed
	Class  string     `json:"class"` // of the last failure, "" = none
	NextAt *time.Time `json:"next_at"`
}

// PeerSampled tells how the connected peers do, each five seconds: at most 1,000
// of them, those that are there the longest. Where there are none it is said
// once. The bus keeps the newest one alone.
type PeerSampled struct {
	Peers []PeerSample `json:"peers"` // never null
}

// PeerSample is one peer of [PeerSampled].
type PeerSample struct {
	ID        peer.ID `json:"id"`
	LatencyMS float64 `json:"latency_ms"` // 0 = not known
	Height    uint64  `json:"height"`     // that it claims
	Score     int     `json:"score"`
	BytesInS  float64 `json:"bytes_in_s"` // since the last sample
	BytesOutS float64 `json:"bytes_out_s"`
}

// BlockStored says that a block is in the ledger, on disk.
type BlockStored struct {
	Height      uint64     `json:"height"`
	Hash        chain.Hash `json:"hash"`
	PrevHash    chain.Hash `json:"prev_hash"`
	Proposer    uint64     `json:"proposer"`
	RecordCount int        `json:"record_count"`
	SizeBytes   int        `json:"size_bytes"`
	From        peer.ID    `json:"from,omitempty"` // who served it; "" = our own engine
	Source      string     `json:"source"`         // gossip | sync | own; ledger where it is told again
	DelayMS     int64      `json:"delay_ms"`       // since the proposer's time
}

// HeadChanged says that the tip moved.
type HeadChanged struct {
	Height uint64     `json:"height"`
	Hash   chain.Hash `json:"hash"`
	Depth  int        `json:"depth"` // blocks taken back; always 0 with certificates
}

// SubtreeAnnounced says that a leader told of a subtree ahead of its block.
type SubtreeAnnounced struct {
	ID      chain.Hash `json:"id"`
	Height  uint64     `json:"height"`
	Index   int        `json:"index"`
	Records int        `json:"records"`
	From    peer.ID    `json:"from"`
}

// MiningOn says that a proposer saw its block committed.
type MiningOn struct {
	Hash        chain.Hash `json:"hash"`
	PrevHash    chain.Hash `json:"prev_hash"`
	Height      uint64     `json:"height"`
	Miner       string     `json:"miner"`
	RecordCount int        `json:"record_count"`
	SizeBytes   int        `json:"size_bytes"`
	From        peer.ID    `json:"-"`
}

// RecordCommitted says that a record has its place in the chain.
type RecordCommitted struct {
	ID      chain.Hash `json:"id"`
	Subject string     `json:"subject"`
	Author  string     `json:"author"` // 64 hex digits
	Height  uint64     `json:"height"`
	Index   int        `json:"index"`
}

// RecordRejected says that a record was refused. With Final it was good once,
// or is known to others, and will never be committed: said once. Without it a
// client was told the reason at the door; at most 10 a second are told here.
type RecordRejected struct {
	ID     chain.Hash `json:"id"`
	Reason string     `json:"reason"`
	Detail string     `json:"detail"`
	Height uint64     `json:"height"`
	Author string     `json:"author"`
	Peer   peer.ID    `json:"peer,omitempty"`
	Final  bool       `json:"final"`
}

// SyncChanged says that the replica began, went on with or ended catching up.
type SyncChanged struct {
	State     string  `json:"state"` // waiting | syncing | synced
	Target    uint64  `json:"target"`
	LagBlocks uint64  `json:"lag_blocks"`
	ETAS      float64 `json:"eta_s"`    // 0 = not known
	BlocksS   float64 `json:"blocks_s"` // stored, over the last seconds
	BytesS    float64 `json:"bytes_s"`  // of their bodies
}

// LedgerChecked says that the chain of a restored backup was verified from its
// genesis on, or what is wrong with it.
type LedgerChecked struct {
	OK     bool   `json:"ok"`
	Height uint64 `json:"height"` // up to it all is good; of the block at fault where OK is false
	Detail string `json:"detail,omitempty"`
}

// ViewChanged says that another validator leads.
type ViewChanged struct {
	View   uint64 `json:"view"`
	Leader uint64 `json:"leader"`
	Why    string `json:"why"`
}

// ValidatorsChanged says that a block put another set of validators in force.
type ValidatorsChanged struct {
	Height  uint64   `json:"height"`  // of that block, which the old set signed
	Added   []uint64 `json:"added"`   // ids, never null
	Removed []uint64 `json:"removed"` // ids, never null
	Quorum  int      `json:"quorum"`  // of the new set
}

// DHTDisagreement says that two paths of a lookup brought different records of
// one key, each validly signed. The one with the higher sequence was taken.
type DHTDisagreement struct {
	Key     string    `json:"key"`
	Authors []peer.ID `json:"authors"` // who signed them, each once
}

// AlarmRaised says that something looks like an attack, or like a fault that
// would help one. It stands until AlarmCleared with the same code.
type AlarmRaised struct {
	Code     string         `json:"code"` // sybil_region, dht_disagreement …
	Text     string         `json:"text"`
	Evidence map[string]any `json:"evidence"`
}

// AlarmCleared says that an alarm is over.
type AlarmCleared struct {
	Code     string         `json:"code"`
	Text     string         `json:"text"`
	Evidence map[string]any `json:"evidence"`
}

// FindingChanged says that something of the node's state was found that an
// operator should know, or that it is over.
type FindingChanged struct {
	Code     string `json:"code"`     // PLY-…
	Severity string `json:"severity"` // ok (over) | warn | crit
	Title    string `json:"title"`    // such as disk_low
	Why      string `json:"why"`      // with the mend
}

// MeshChanged says that other many peers exchange whole messages of a topic
// with this node: of one topic at most once in ten seconds, and then the number
// of now.
type MeshChanged struct {
	Topic string `json:"topic"` // our name of it
	Mesh  int    `json:"mesh"`  // 0 also where the topic is no longer served
	Low   int    `json:"low"`   // below it peers are looked for, where there are more
	High  int    `json:"high"`  // above it some are left
}

// HealthChanged says that the node became ready, or is no longer. It is looked
// for each five seconds.
type HealthChanged struct {
	From    string   `json:"from"` // ready | not_ready | dead
	To      string   `json:"to"`
	Reasons []string `json:"reasons"` // of the checks that fail, each with its code; never null
}

// StatsSampled is sent once a second.
type StatsSampled struct {
	Inbound   int                `json:"inbound"`
	Outbound  int                `json:"outbound"`
	BytesInS  float64            `json:"bytes_in_s"`
	BytesOutS float64            `json:"bytes_out_s"`
	MessagesS map[string]float64 `json:"messages_s"`
	RecordsS  float64            `json:"records_s"`
	Mempool   int                `json:"mempool"`
}

// LogWritten is a line of the log, while somebody who may follows them here.
type LogWritten struct {
	Level string                     `json:"level"` // debug | info | warn | error
	Room  string                     `json:"room"`  // "" = of no room
	Msg   string                     `json:"msg"`
	Attrs map[string]json.RawMessage `json:"attrs"`
}

// Type implements [Event], as do all below.
func (NodeStarted) Type() string       { return "node.started" }
func (NodeStopping) Type() string      { return "node.stopping" }
func (ConfigReloaded) Type() string    { return "config.reloaded" }
func (PeerConnected) Type() string     { return "peer.connected" }
func (PeerReady) Type() string         { return "peer.ready" }
func (PeerDisconnected) Type() string  { return "peer.disconnected" }
func (PeerRefused) Type() string       { return "peer.refused" }
func (PeerPenalized) Type() string     { return "peer.penalized" }
func (PeerBanned) Type() string        { return "peer.banned" }
func (PeerUnbanned) Type() string      { return "peer.unbanned" }
func (PeerDiscouraged) Type() string   { return "peer.discouraged" }
func (StaticPeerChanged) Type() string { return "static_peer.changed" }
func (PeerSampled) Type() string       { return "peer.sampled" }
func (BlockStored) Type() string       { return "block.stored" }
func (HeadChanged) Type() string       { return "head.changed" }
func (SubtreeAnnounced) Type() string  { return "subtree.announced" }
func (MiningOn) Type() string          { return "mining.on" }
func (RecordCommitted) Type() string   { return "record.committed" }
func (RecordRejected) Type() string    { return "record.rejected" }
func (SyncChanged) Type() string       { return "sync.changed" }
func (LedgerChecked) Type() string     { return "ledger.checked" }
func (ViewChanged) Type() string       { return "view.changed" }
func (ValidatorsChanged) Type() string { return "validators.changed" }
func (DHTDisagreement) Type() string   { return "dht.disagreement" }
func (AlarmRaised) Type() string       { return "alarm.raised" }
func (AlarmCleared) Type() string      { return "alarm.cleared" }
func (FindingChanged) Type() string    { return "finding.changed" }
func (MeshChanged) Type() string       { return "mesh.changed" }
func (HealthChanged) Type() string     { return "health.changed" }
func (StatsSampled) Type() string      { return "stats.sampled" }
func (LogWritten) Type() string        { return "log.written" }
