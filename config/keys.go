package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key describes one knob for people: `config show`, docs and flags are made of it.
type Key struct {
	Name    string // dotted, as in files
	Type    string // string, bool, int, number, list, tables, duration, size, rate, secret, or the choices a|b|c
	Default string // as text, lists by comma
	Unit    string // of a bare number; "" = none
	Help    string
	Flag    string // its own flag of `parley run`, without dashes; "" = only --set
	Live    bool   // a running node takes over another value: by a reload, and by PATCH config
	File    bool   // the value names files that the node reads
}

// Env is the key's environment variable.
func (k Key) Env() string { return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "__")) }

// knob is a key with its place in Config and its bounds.
type knob struct {
	name, flag, unit, help string
	at                     func(*Config) any // pointer to the field
	oneOf                  []string          // choices of a string
	low, high              int64             // bounds of a number, both included; high 0 = none
	check                  func(*checker, *Config) []problem
	live, file             bool // see Key
}

var knobs = []knob{
	{name: "network", flag: "network", help: "kind of chain: consortium, or sidecar = your own by gRPC",
		at: func(c *Config) any { return &c.Network }, check: checkNetwork},
	{name: "network_name", help: "label of the network, [a-z0-9-], 1 to 32 characters; a sidecar network is told by it",
		at: func(c *Config) any { return &c.NetworkName }, check: checkNetworkName},
	{name: "data_dir", flag: "data-dir", help: "where the node keeps everything; default by machine: service, image, else $XDG_DATA_HOME/parley",
		at: func(c *Config) any { return &c.DataDir }},
	{name: "profile", help: "devnet: port 0 is legal and the default of p2p.port; server is as default in this version, which maps no ports",
		at: func(c *Config) any { return &c.Profile }, oneOf: []string{ProfileDefault, ProfileServer, ProfileDevnet}},

	{name: "node.name", help: "what others see, at most 64 bytes; default: host name",
		at: func(c *Config) any { return &c.Node.Name }, check: checkNodeName},
	{name: "node.key_file", help: "identity key, in data_dir; made at first run",
		at: func(c *Config) any { return &c.Node.KeyFile }, check: notEmpty(func(c *Config) string { return c.Node.KeyFile })},
	{name: nodeKeyKey, help: "that key by value: only as p2p_private_key, 64 or 128 hex digits; saved in node.key_file",
		at: func(c *Config) any { return &c.Node.Key }},
	{name: "node.peer_id", help: "peer id that the key must have; another one is a fault of the start; empty = any",
		at: func(c *Config) any { return &c.Node.PeerID }, check: checkPeerID},
	{name: "node.base_url", help: "public URL of our API, told to peers",
		at: func(c *Config) any { return &c.Node.BaseURL }, check: checkBaseURL},

	{name: "log.level", live: true, flag: "log-level", help: "debug, info, warn or error, and exceptions by room: info,p2p.gossip=debug",
		at: func(c *Config) any { return &c.Log.Level }, check: checkLogLevel},
	{name: "log.format", help: "auto: text on a terminal, journal under systemd, else json",
		at: func(c *Config) any { return &c.Log.Format }, oneOf: []string{"auto", "text", "json", "journal"}},

	{name: "ops.listen", flag: "ops-listen", help: "host:port of metrics and probes; empty = off",
		at: func(c *Config) any { return &c.Ops.Listen }, check: checkOpsListen},
	{name: "ops.pprof", live: true, help: "serve /debug/pprof on ops.listen", at: func(c *Config) any { return &c.Ops.PProf }},

	{name: "history.keep", help: "how long ended connections and their reasons are remembered",
		at: func(c *Config) any { return &c.History.Keep }, low: int64(time.Hour), high: int64(87600 * time.Hour)},

	{name: "bans.store", help: "where bans are kept: a file in data_dir, or postgres://… that a fleet shares",
		at: func(c *Config) any { return &c.Bans.Store }, check: checkBanStore},
	{name: "bans.threshold", live: true, unit: "points", help: "of misbehaviour that ban a peer",
		at: func(c *Config) any { return &c.Bans.Threshold }, low: 10, high: 10_000},
	{name: "bans.duration", live: true, help: "of a ban that names no end, and of a first automatic one",
		at: func(c *Config) any { return &c.Bans.Duration }, low: int64(time.Minute), high: int64(87600 * time.Hour)},
	{name: "bans.max_entries", unit: "bans", help: "at most; the automatic one that ends first makes room",
		at: func(c *Config) any { return &c.Bans.MaxEntries }, low: 1, high: 10_000_000},
	{name: "bans.trust_fleet", help: "automatic bans of other nodes on the same bans.store are ours too",
		at: func(c *Config) any { return &c.Bans.TrustFleet }},
	{name: "bans.import", live: true, file: true, help: "files of targets to ban at start and at each reload, one a line",
		at: func(c *Config) any { return &c.Bans.Import }},

	{name: "consortium.bootstrap", help: "who makes a genesis: auto = whoever has no store and no peers; ordinal-0 = of those the host named …-0",
		at: func(c *Config) any { return &c.Consortium.Bootstrap }, oneOf: []string{BootstrapAuto, BootstrapNever, BootstrapOrdinal0}},
	{name: "consortium.chain_id", help: "only this chain; empty = trust the first one met",
		at: func(c *Config) any { return &c.Consortium.ChainID }, check: checkChainID},
	{name: "consortium.genesis_hash", help: "only the chain with this genesis, 64 hex digits; empty = trust the first one met",
		at: func(c *Config) any { return &c.Consortium.GenesisHash }, check: checkGenesisHash},
	{name: "consortium.genesis_file", help: "start an empty store from this genesis.json; a store of another chain is refused",
		at: func(c *Config) any { return &c.Consortium.GenesisFile }},
	{name: "consortium.role", help: "auto = validator when the chain's set holds our key",
		at: func(c *Config) any { return &c.Consortium.Role }, oneOf: []string{RoleAuto, RoleFollower}},
	{name: "consortium.sole_validator", help: "vote although the consensus log is lost: only where no other validator can vote",
		at: func(c *Config) any { return &c.Consortium.SoleValidator }},
	{name: "consortium.mempool_records", unit: "records", help: "records waiting at most",
		at: func(c *Config) any { return &c.Consortium.MempoolRecords }, low: 1, high: 10_000_000},
	{name: "consortium.mempool_bytes", unit: "bytes", help: "their bytes at most",
		at: func(c *Config) any { return &c.Consortium.MempoolBytes }, low: 1 << 20, high: 1 << 40}, // low: room for several records of 64 KiB

	{name: "sidecar.topics", help: "topics that are served though the program declares none, each { name = \"tx\", max = \"64KiB\", validate = true } or tx:64KiB",
		at: func(c *Config) any { return &c.Sidecar.Topics }, check: checkSidecarTopics},
	{name: "sidecar.protocols", help: "names of requests that are served though the program declares none",
		at: func(c *Config) any { return &c.Sidecar.Protocols }, check: checkSidecarProtocols},
	{name: "sidecar.validate_timeout", help: "for the program's verdict on a message",
		at: func(c *Config) any { return &c.Sidecar.ValidateTimeout }, low: int64(10 * time.Millisecond), high: int64(10 * time.Second)},
	{name: "sidecar.on_timeout", help: "what becomes of a message without a verdict: ignore drops it, accept relays it",
		at: func(c *Config) any { return &c.Sidecar.OnTimeout }, oneOf: []string{SidecarIgnore, SidecarAccept}},
	{name: "sidecar.on_detached", help: "what becomes of messages while no program is attached",
		at: func(c *Config) any { return &c.Sidecar.OnDetached }, oneOf: []string{SidecarIgnore, SidecarAccept}},
	{name: "sidecar.max_message", unit: "bytes", help: "of one message of any topic",
		at: func(c *Config) any { return &c.Sidecar.MaxMessage }, low: 1 << 10, high: maxSidecarBytes},

	{name: "api.listen", flag: "api-listen", help: "host:port, unix:PATH; ? = skip if taken",
		at: func(c *Config) any { return &c.API.Listen }, check: checkAPIListen},
	{name: publicReadKey, live: true, help: "reading needs no token", at: func(c *Config) any { return &c.API.PublicRead }},
	{name: "api.jwt_secret_file", live: true, file: true, help: "secrets of API tokens, one a line, at least 32 bytes, in data_dir; made at first run",
		at: func(c *Config) any { return &c.API.JWTSecretFile }, check: checkSecretFile},
	{name: jwtSecretKey, help: "that secret by value: only as JWT_SECRET",
		at: func(c *Config) any { return &c.API.JWTSecret }, check: warnShortSecret},
	{name: "api.allowed_hosts", live: true, help: "Host names that loopback listeners accept beside IPs and localhost",
		at: func(c *Config) any { return &c.API.AllowedHosts }, check: checkAllowedHosts},
	{name: "api.rate", live: true, unit: "requests per second", help: "of one IP without token; with token 10 times as many",
		at: func(c *Config) any { return &c.API.Rate }, low: 1, high: 1_000_000},
	{name: "api.max_clients", unit: "clients", help: "WebSocket and SSE clients at most",
		at: func(c *Config) any { return &c.API.MaxClients }, low: 1, high: 1_000_000},
	{name: "api.event_buffer", unit: "events", help: "events kept for clients that come back",
		at: func(c *Config) any { return &c.API.EventBuffer }, low: 1, high: 1 << 20},

	{name: "api.compat", help: "other systems whose routes are served: provchain, teranode, beacon, prysm, jsonrpc; empty = none",
		at: func(c *Config) any { return &c.API.Compat }, check: checkCompat},
	{name: corsKey, live: true, help: "origins, like https://app.example.org, whose pages may call the API; * = all, only together with api.public_read",
		at: func(c *Config) any { return &c.API.CORS }, check: checkCORS},
	{name: tlsCertKey, live: true, file: true, help: "PEM file of certificates, the node's own first; set = HTTPS alone on every TCP listener",
		at: func(c *Config) any { return &c.API.TLSCert }},
	{name: tlsKeyKey, live: true, file: true, help: "PEM file of that certificate's key", at: func(c *Config) any { return &c.API.TLSKey }, check: checkTLSKey},

	{name: "p2p.port", flag: "p2p-port", help: "port of libp2p over TCP", at: func(c *Config) any { return &c.P2P.Port }, check: checkP2PPort},
	{name: "p2p.quic_port", help: "UDP port of libp2p; 0 = p2p.port", at: func(c *Config) any { return &c.P2P.QUICPort }, low: 0, high: 65535},
	{name: "p2p.listen", help: "multiaddrs, IPs or IP:port; empty = TCP and QUIC on all IPv4 and IPv6",
		at: func(c *Config) any { return &c.P2P.Listen }, check: checkP2PListen},
	{name: "p2p.websocket", help: "also WebSocket on p2p.port", at: func(c *Config) any { return &c.P2P.WebSocket }},
	{name: "p2p.on_api_port", help: "libp2p also on the port of the first api.listen", at: func(c *Config) any { return &c.P2P.OnAPIPort }},
	{name: staticPeersKey, live: true, flag: "peers", help: "peers to keep: host[:port], http(s)://host:port or multiaddr; empty = bootstrap",
		at: func(c *Config) any { return &c.P2P.StaticPeers }, check: checkStaticPeers},
	{name: "p2p.trusted_peers", live: true, help: "peer IDs: never evicted, never banned for points",
		at: func(c *Config) any { return &c.P2P.TrustedPeers }, check: checkTrustedPeers},
	{name: "p2p.allow_peers", live: true, help: "peer IDs, each alone or as \"ID until 2026-12-24T18:00:00Z\": beside static and trusted peers and members nobody else may connect; empty = all may",
		at: func(c *Config) any { return &c.P2P.AllowPeers }, check: checkAllowPeers},
	{name: sharedFileKey, live: true, file: true, help: "swarm.key: one to four keys of a private network, the first of which dials; TCP alone; empty = an open network",
		at: func(c *Config) any { return &c.P2P.SharedKeyFile }, check: checkSharedKeyFile},
	{name: sharedKeyKey, help: "such a key by value: only as p2p_shared_key",
		at: func(c *Config) any { return &c.P2P.SharedKey }, check: checkSharedKey},
	{name: bootstrapPeersKey, live: true, help: "peers to ask for others and to leave: multiaddr with /p2p/ID, /dnsaddr, host[:port] or http(s)://host:port of their API",
		at: func(c *Config) any { return &c.P2P.BootstrapPeers }, check: checkBootstrapPeers},
	{name: "p2p.advertise", live: true, help: "addresses told to others: IP, name, host:port or multiaddr",
		at: func(c *Config) any { return &c.P2P.Advertise }, check: checkAdvertise},
	{name: "p2p.host_ip", live: true, flag: "p2p-host-ip", help: "public IP told to others with p2p.port, beside p2p.advertise; empty = none",
		at: func(c *Config) any { return &c.P2P.HostIP }, check: checkHostIP},
	{name: "p2p.host_dns", live: true, flag: "p2p-host-dns", help: "a name told likewise, with its addresses, looked up each minute; empty = none",
		at: func(c *Config) any { return &c.P2P.HostDNS }, check: checkHostDNS},
	{name: "p2p.min_peers", unit: "peers", help: "with fewer than that /readyz fails, once peers are configured",
		at: func(c *Config) any { return &c.P2P.MinPeers }, low: 0, high: 100_000},
	{name: "p2p.target_peers", unit: "peers", help: "outbound peers that are kept, of those that were found", at: func(c *Config) any { return &c.P2P.TargetPeers }, low: 0, high: 1_000},
	{name: "p2p.addresses", help: "public = the address book takes public addresses alone; private = also those of LANs and containers; auto = private",
		at: func(c *Config) any { return &c.P2P.Addresses }, oneOf: []string{AddressesAuto, AddressesPublic, AddressesPrivate}},
	{name: "p2p.as_map_file", help: "file with routes and the number of their system, for the groups of the address book; empty = by address",
		at: func(c *Config) any { return &c.P2P.ASMapFile }},
	{name: "p2p.max_peers", unit: "peers", help: "connected peers at most", at: func(c *Config) any { return &c.P2P.MaxPeers }, low: 1, high: 100_000},
	{name: "p2p.optimise_retries", help: "let addresses rest that failed for a lasting reason, while the peer has others",
		at: func(c *Config) any { return &c.P2P.OptimiseRetries }},

	{name: "discovery.dht", help: "DHT of this network alone; auto = server unless we know that nobody reaches us",
		at: func(c *Config) any { return &c.Discovery.DHT }, oneOf: []string{DHTAuto, DHTServer, DHTClient, DHTOff}},
	{name: "discovery.dht_scope", help: "private = only peers with whom we shook hands; public = all that speak our protocol",
		at: func(c *Config) any { return &c.Discovery.DHTScope }, oneOf: []string{DHTScopePrivate, DHTScopePublic}},
	{name: "discovery.dht_protocol", help: "prefix of the DHT's protocol, the same on all nodes of a network; empty = /parley/<net>",
		at: func(c *Config) any { return &c.Discovery.DHTProtocol }, check: checkDHTProtocol},
	{name: "discovery.rendezvous", help: "advertise and find by topic, through the DHT", at: func(c *Config) any { return &c.Discovery.Rendezvous }},
	{name: "discovery.pex", help: "swap signed peer records with peers", at: func(c *Config) any { return &c.Discovery.PEX }},
	{name: "discovery.mdns", help: "find peers on the same LAN by multicast", at: func(c *Config) any { return &c.Discovery.MDNS }},
	{name: "discovery.dns", help: "names with dnsaddr TXT records, or host[:port] whose addresses are nodes",
		at: func(c *Config) any { return &c.Discovery.DNS }, check: checkDNS},

	topicKnob("block", "blocks", func(c *Config) *string { return &c.Gossip.Topics.Block }),
	topicKnob("subtree", "subtrees", func(c *Config) *string { return &c.Gossip.Topics.Subtree }),
	topicKnob("record", "records", func(c *Config) *string { return &c.Gossip.Topics.Record }),
	topicKnob("mining_on", "who builds on what", func(c *Config) *string { return &c.Gossip.Topics.MiningOn }),
	topicKnob("rejected_tx", "refused records", func(c *Config) *string { return &c.Gossip.Topics.RejectedTx }),
	topicKnob("best_block", "heads", func(c *Config) *string { return &c.Gossip.Topics.BestBlock }),
	topicKnob("node_status", "nodes' status", func(c *Config) *string { return &c.Gossip.Topics.NodeStatus }),
	topicKnob("handshake", "version and verack", func(c *Config) *string { return &c.Gossip.Topics.Handshake }),
	{name: "gossip.status_interval", help: "between two status messages",
		at: func(c *Config) any { return &c.Gossip.StatusInterval }, low: int64(100 * time.Millisecond), high: int64(5 * time.Minute)},

	{name: otlpKey, help: "where traces go, by OTLP over HTTP: http://HOST:4318; empty = nothing is traced",
		at: func(c *Config) any { return &c.Telemetry.OTLPEndpoint }, check: checkOTLP},
	{name: "telemetry.service_name", help: "service.name of traces; empty = parley",
		at: func(c *Config) any { return &c.Telemetry.ServiceName }, check: checkServiceName},
	{name: "telemetry.sample_ratio", live: true, help: "which part of all traces is kept, 0 to 1",
		at: func(c *Config) any { return &c.Telemetry.SampleRatio }, check: checkSampleRatio},

	{name: sinkKey, live: true, file: true, help: "where events are delivered to, each a table [[sink]]: kind nats or kafka, url, subject, types, credentials_file",
		at: func(c *Config) any { return &c.Sinks }},
}

const (
	nodeKeyKey     = "node.key"
	jwtSecretKey   = "api.jwt_secret"
	jwtFileKey     = "api.jwt_secret_file"
	staticPeersKey = "p2p.static_peers"
	sharedFileKey  = "p2p.shared_key_file"
	sharedKeyKey   = "p2p.shared_key"
	topicsPrefix   = "gossip.topics."

	bootstrapPeersKey = "p2p.bootstrap_peers"

	corsKey       = "api.cors"
	publicReadKey = "api.public_read"
	tlsCertKey    = "api.tls_cert"
	tlsKeyKey     = "api.tls_key"
)

func topicKnob(name, about string, at func(*Config) *string) knob {
	return knob{name: topicsPrefix + name, help: "name of the topic of " + about,
		at: func(c *Config) any { return at(c) }, check: checkTopic(name, at)}
}

// find returns the knob of a dotted key.
func find(name string) (knob, bool) {
	i := slices.IndexFunc(knobs, func(k knob) bool { return k.name == name })
	if i < 0 {
		return knob{}, false
	}
	return knobs[i], true
}

// Keys lists every key, in the order of the configuration page.
func Keys() []Key {
	def := Default()
	keys := make([]Key, len(knobs))
	for i, k := range knobs {
		keys[i] = Key{Name: k.name, Type: k.typeName(), Default: format(k.at(&def)), Unit: k.unit, Help: k.help, Flag: k.flag, Live: k.live, File: k.file}
	}
	return keys
}

func (k knob) typeName() string {
	if k.oneOf != nil {
		return strings.Join(k.oneOf, "|")
	}
	return typeOf(k.at(new(Config)))
}

func typeOf(field any) string {
	switch field.(type) {
	case *string:
		return "string"
	case *bool:
		return "bool"
	case *int:
		return "int"
	case *float64:
		return "number"
	case *[]string, *SidecarTopics:
		return "list"
	case *[]Sink:
		return "tables"
	case *time.Duration:
		return "duration"
	case *Size:
		return "size"
	case *Rate:
		return "rate"
	case *Secret:
		return "secret"
	}
	panic(fmt.Sprintf("config: no type for %T", field))
}

// format gives a field as the text that setText reads.
func format(field any) string {
	switch p := field.(type) {
	case *string:
		return *p
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *float64:
		return strconv.FormatFloat(*p, 'g', -1, 64)
	case *[]string:
		return strings.Join(*p, ",")
	case *[]Sink:
		return formatSinks(*p)
	case *time.Duration:
		return formatDuration(*p)
	case fmt.Stringer: // Size, Rate, Secret, SidecarTopics
		return p.String()
	}
	panic(fmt.Sprintf("config: no text for %T", field))
}

// setText sets a field from an environment variable or a flag.
func setText(field any, text string) (err error) {
	switch p := field.(type) {
	case *string:
		*p = text
	case *Secret:
		*p = Secret(text)
	case *bool:
		if *p, err = strconv.ParseBool(text); err != nil {
			return errors.New("is neither true nor false")
		}
	case *int:
		n, err := strconv.ParseInt(text, 10, 0)
		if err != nil {
			return errors.New("is not a whole number")
		}
		*p = int(n)
	case *float64:
		if *p, err = strconv.ParseFloat(text, 64); err != nil {
			return errors.New("is not a number like 0.1")
		}
	case *[]string:
		*p = splitList(text)
	case *time.Duration:
		if *p, err = time.ParseDuration(text); err != nil {
			return errors.New("is not a duration like 250ms, 10s or 24h")
		}
	case *Size:
		*p, err = ParseSize(text)
	case *Rate:
		*p, err = ParseRate(text)
	case *SidecarTopics:
		err = p.setText(text)
	}
	return err
}

// setValue sets a field from a file, whose values have types of their own: text is no number there.
func setValue(field, value any) error {
	switch v := value.(type) {
	case string:
		switch field.(type) {
		case *bool:
			return errors.New("is text: write true or false without quotes")
		case *int, *float64:
			return errors.New("is text: write a number without quotes")
		case *[]string, *SidecarTopics:
			return errors.New("is text: write a list like [\"a\", \"b\"]")
		}
		return setText(field, v)
	case bool:
		if p, ok := field.(*bool); ok {
			*p = v
			return nil
		}
	case int:
		return setValue(field, int64(v))
	case int64:
		switch p := field.(type) {
		case *int:
			if v < math.MinInt || v > math.MaxInt {
				return errors.New("is too large")
			}
			*p = int(v)
			return nil
		case *float64:
			*p = float64(v)
			return nil
		case *Size:
			*p = Size(v)
			return nil
		}
	case float64:
		if p, ok := field.(*float64); ok {
			*p = v
			return nil
		}
	case []string:
		if p, ok := field.(*[]string); ok {
			*p = v
			return nil
		}
	case []any:
		switch p := field.(type) {
		case *[]string:
			return setList(p, v)
		case *SidecarTopics:
			return p.setItems(v)
		}
	case []map[string]any:
		if p, ok := field.(*SidecarTopics); ok {
			items := make([]any, len(v))
			for i := range v {
				items[i] = v[i]
			}
			return p.setItems(items)
		}
	}
	return fmt.Errorf("is no %s", typeOf(field))
}

func setList(p *[]string, items []any) error {
	list := make([]string, 0, len(items))
	for i, item := range items {
		text, ok := item.(string)
		if !ok {
			return fmt.Errorf("has at position %d something that is no text", i+1)
		}
		list = append(list, text)
	}
	*p = list
	return nil
}

// splitList splits at commas; blanks around items and empty items are dropped.
// A list as in a file, ["a", "b"], is read too, also where a shell took its quotes.
func splitList(text string) []string {
	text, listed := unbracket(text)
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); listed {
			item = unquote(item)
		}
		if item != "" {
			items = append(items, item)
		}
	}
	return items
}

// unbracket takes the brackets off a list as files have it. Those of an IPv6
// address stay.
func unbracket(text string) (inner string, listed bool) {
	t := strings.TrimSpace(text)
	if len(t) < 2 || t[0] != '[' || t[len(t)-1] != ']' {
		return text, false
	}
	inner = t[1 : len(t)-1]
	if _, err := netip.ParseAddr(inner); err == nil {
		return text, false
	}
	open := 0
	for _, r := range inner {
		switch r {
		case '[':
			open++
		case ']':
			if open--; open < 0 { // [::1]:80,[::2]
				return text, false
			}
		}
	}
	return inner, open == 0
}

// bounds tests the generic bounds of a knob: its choices, or low and high.
func (k knob) bounds(c *Config) []problem {
	var n int64
	switch p := k.at(c).(type) {
	case *string:
		if k.oneOf != nil && !slices.Contains(k.oneOf, *p) {
			return []problem{{RuleRange, fmt.Sprintf("%s is not one of %s", quote(*p), strings.Join(k.oneOf, ", "))}}
		}
		return nil
	case *int:
		n = int64(*p)
	case *Size:
		n = int64(*p)
	case *Rate:
		n = int64(*p)
	case *time.Duration:
		n = int64(*p)
	}
	if k.high != 0 && (n < k.low || n > k.high) {
		return []problem{{RuleRange, fmt.Sprintf("%s is not from %s to %s", format(k.at(c)), k.bound(k.low), k.bound(k.high))}}
	}
	return nil
}

func (k knob) bound(n int64) string {
	switch k.at(new(Config)).(type) {
	case *Size:
		return Size(n).String()
	case *Rate:
		return Rate(n).String()
	case *time.Duration:
		return formatDuration(time.Duration(n))
	}
	return strconv.FormatInt(n, 10)
}
