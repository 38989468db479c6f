// Package config owns every knob of a node as data: its name, default, unit and bounds, and where its value came from.
package config

import (
	"path/filepath"
	"slices"
	"time"
)

// Profiles, the values of Config.Profile.
const (
	ProfileDefault = "default"
	ProfileServer  = "server" // no port mapping, no mDNS, no private dials: this version does none of them anyway
	ProfileDevnet  = "devnet" // several nodes on one machine: port 0 is legal and the default of p2p.port
)

// Values of Consortium.Bootstrap and Consortium.Role.
const (
	BootstrapAuto     = "auto"      // make a genesis when store and peers are empty
	BootstrapNever    = "never"     // wait for peers
	BootstrapOrdinal0 = "ordinal-0" // as auto, but only on the host whose name ends in -0
	RoleAuto          = "auto"      // validator when the chain's set holds our key
	RoleFollower      = "follower"
)

// Values of Config.Network.
const (
	NetworkConsortium = "consortium" // the embedded chain
	NetworkSidecar    = "sidecar"    // a chain whose program is attached over gRPC
)

// Config is the whole configuration. Rooms get their own section by value, never the whole.
type Config struct {
	Network     string
	NetworkName string
	DataDir     string // Load puts the place for this machine where nothing is set
	Profile     string
	Node        Node
	Log         Log
	Ops         Ops
	History     History
	Bans        Bans
	Consortium  Consortium
	Sidecar     Sidecar
	API         API
	P2P         P2P
	Discovery   Discovery
	Gossip      Gossip
	Telemetry   Telemetry
	Sinks       []Sink
}

// Node says who this node is.
type Node struct {
	Name    string // at most 64 bytes; Load puts the host name where nothing is set
	KeyFile string // see Config.Path
	Key     Secret // by value, only from p2p_private_key; kept in KeyFile, and another key there is a fault of the start
	PeerID  string // that the key must have, "" = any
	BaseURL string // public URL of our API, "" = not told to peers
}

// Log says what is logged and how.
type Log struct {
	Level  string // see ParseLogLevel
	Format string // auto, text, json or journal
}

// Ops is the listener for metrics and probes.
type Ops struct {
	Listen string // host:port, "" = off
	PProf  bool
}

// History is what is remembered of connections that ended.
type History struct {
	Keep time.Duration
}

// Bans is the list of those who are refused, and what leads there.
type Bans struct {
	Store      string        // a file in DataDir, or postgres://… that a fleet shares
	Threshold  int           // points
	Duration   time.Duration // of a ban that names no end
	MaxEntries int
	TrustFleet bool     // automatic bans of other nodes on Store are ours too
	Import     []string // files of targets, one a line; see Config.Path
}

// Consortium is about the embedded chain on this node. Rules of the chain itself stand in its genesis and config records.
type Consortium struct {
	Bootstrap      string
	ChainID        string // pins the chain, "" = trust on first use
	GenesisHash    string // pins the chain: 64 hex digits or ""
	GenesisFile    string // starts from this genesis; see Config.Path
	Role           string
	SoleValidator  bool // vote although the consensus log is lost: safe only where no other validator can vote
	MempoolRecords int
	MempoolBytes   Size
}

// API is the HTTP side.
type API struct {
	Listen        []string // see ParseListen
	PublicRead    bool
	JWTSecretFile string // see Config.Path; not read when JWTSecret is set
	JWTSecret     Secret // by value, only from JWT_SECRET; "" = use the file
	AllowedHosts  []string
	Rate          Rate // per IP without token
	MaxClients    int  // WebSocket and SSE together
	EventBuffer   int  // events kept for resume
	// Compat names the other systems whose routes are served: see CompatProvChain and its like.
	Compat  []string
	CORS    []string // origins whose pages may call; "*" = all
	TLSCert string   // PEM files, both or none; see Config.Path
	TLSKey  string
}

// AllOrigins says whether pages of every origin may call.
func (a API) AllOrigins() bool { return slices.Contains(a.CORS, "*") }

// P2P is the libp2p side.
type P2P struct {
	Port        int
	QUICPort    int      // 0 = Port
	Listen      []string // multiaddrs or IPs (an IP takes Port and QUICPort); empty = TCP and QUIC on all IPv4 and IPv6
	WebSocket   bool
	OnAPIPort   bool
	StaticPeers []string // each valid by ParsePeer, none twice
	// BootstrapPeers are asked for others and left: each valid by ParsePeer, none twice; a multiaddr names the peer's id.
	BootstrapPeers []string
	// TrustedPeers are peer IDs, none twice.
	TrustedPeers []string
	// AllowPeers, where it is not empty, are all that may connect, beside
	// static and trusted peers and members: each valid by ParseAllowed, none twice.
	AllowPeers    []string
	SharedKeyFile string   // keys of a private network, "" = an open one; see Config.Path; not read when SharedKey is set
	SharedKey     Secret   // that key by value, only from p2p_shared_key; "" = use the file
	Advertise     []string // IPs, names, host:port or multiaddrs
	HostIP        string   // told to others with the ports of libp2p, beside Advertise; "" = none
	HostDNS       string   // a name, likewise
	MinPeers      int
	MaxPeers      int
	// OptimiseRetries lets addresses rest that failed for a lasting reason.
	OptimiseRetries bool
	TargetPeers     int    // outbound
	Addresses       string // which ones the address book takes
	ASMapFile       string // routes and their systems, for the groups of the address book; "" = none
}

// Discovery says by which ways peers are found.
type Discovery struct {
	DHT         string   // auto, server, client or off
	DHTScope    string   // private: only peers with whom we shook hands; public: all that speak our protocol
	DHTProtocol string   // prefix of the DHT's protocol, "" = /parley/<net>; never /ipfs
	Rendezvous  bool     // advertise and find by topic; needs the DHT
	PEX         bool     // swap signed peer records
	MDNS        bool     // find peers on the same LAN
	DNS         []string // names with dnsaddr TXT records, or host[:port] of nodes' APIs
}

// Values of Discovery.DHT and Discovery.DHTScope.
const (
	DHTAuto         = "auto" // a server unless we know that nobody reaches us
	DHTServer       = "server"
	DHTClient       = "client"
	DHTOff          = "off"
	DHTScopePrivate = "private"
	DHTScopePublic  = "public"
)

// Values of API.Compat.
const (
	CompatProvChain = "provchain"
	CompatTeranode  = "teranode"
	CompatBeacon    = "beacon"
	CompatPrysm     = "prysm"
	CompatJSONRPC   = "jsonrpc"
)

var compats = []string{CompatProvChain, CompatTeranode, CompatBeacon, CompatPrysm, CompatJSONRPC}

// Values of P2P.Addresses.
const (
	AddressesAuto    = "auto"   // as private, for a node that does not know where it is reached
	AddressesPublic  = "public" // public ones alone
	AddressesPrivate = "private"
)

// Telemetry says where traces go.
type Telemetry struct {
	OTLPEndpoint string // http(s)://host:port, of OTLP over HTTP; "" = nothing is traced
	ServiceName  string // "" = parley
	SampleRatio  float64
}

// Gossip names the topics and their pace.
type Gossip struct {
	Topics         Topics
	StatusInterval time.Duration
}

// Topics are the last parts of topic names. Never empty, no two alike.
type Topics struct {
	Block, Subtree, Record, MiningOn, RejectedTx, BestBlock, NodeStatus, Handshake string
}

// Default returns the configuration of a node to which nothing was said. DataDir and Node.Name are empty: Load fills them.
func Default() Config {
	return Config{
		Network:     NetworkConsortium,
		NetworkName: "main",
		Profile:     ProfileDefault,
		Node:        Node{KeyFile: "node.key"},
		Log:         Log{Level: "info", Format: "auto"},
		Ops:         Ops{Listen: "127.0.0.1:9090"},
		History:     History{Keep: 720 * time.Hour},
		Bans:        Bans{Store: "bans.db", Threshold: 100, Duration: 24 * time.Hour, MaxEntries: 100_000},
		Consortium: Consortium{
			Bootstrap: BootstrapAuto, Role: RoleAuto, MempoolRecords: 50_000, MempoolBytes: 64 << 20,
		},
		Sidecar: Sidecar{ValidateTimeout: 500 * time.Millisecond, OnTimeout: SidecarIgnore, OnDetached: SidecarIgnore, MaxMessage: 1 << 20},
		API: API{
			Listen:     []string{":8080", "127.0.0.1:3500?", "127.0.0.1:8545?"},
			PublicRead: true, JWTSecretFile: "jwt.hex", Rate: 50, MaxClients: 1000, EventBuffer: 16384,
			Compat: slices.Clone(compats),
		},
		P2P:       P2P{Port: 9906, OnAPIPort: true, MinPeers: 1, MaxPeers: 100, TargetPeers: 8, Addresses: AddressesAuto, OptimiseRetries: true},
		Discovery: Discovery{DHT: DHTAuto, DHTScope: DHTScopePrivate, Rendezvous: true, PEX: true},
		Gossip: Gossip{
			Topics: Topics{
				Block: "block", Subtree: "subtree", Record: "record", MiningOn: "mining_on", RejectedTx: "rejected_tx",
				BestBlock: "best_block", NodeStatus: "node_status", Handshake: "handshake",
			},
			StatusInterval: 10 * time.Second,
		},
		Telemetry: Telemetry{SampleRatio: 0.1},
	}
}

// Path returns the place of a file that the configuration names: relative names are taken from DataDir, "" stays "".
func (c Config) Path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.DataDir, name)
}
