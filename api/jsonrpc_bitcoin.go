package api

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// rpcBitcoin has the methods of bitcoin's nodes. Their names have no service:
// getpeerinfo is read as bitcoin_getpeerinfo.
type rpcBitcoin struct{ s *Server }

// forEver is the end of a ban that has none, for clients that want a number:
// the last second of the year 9999.
const forEver = 253402300799

type bitcoinPeer struct {
	ID             uint32   `json:"id"` // made from the peer id
	PeerID         peer.ID  `json:"peer_id"`
	Addr           string   `json:"addr"`
	Network        string   `json:"network"`
	Services       string   `json:"services"` // 16 hex digits
	ServicesNames  []string `json:"servicesnames"`
	RelayTxes      bool     `json:"relaytxes"`
	LastSend       int64    `json:"lastsend"` // both: when it was last heard of
	LastRecv       int64    `json:"lastrecv"`
	BytesSent      int64    `json:"bytessent"`
	BytesRecv      int64    `json:"bytesrecv"`
	ConnTime       int64    `json:"conntime"`
	PingTime       float64  `json:"pingtime"` // s
	Version        uint32   `json:"version"`
	SubVer         string   `json:"subver"`
	Inbound        bool     `json:"inbound"`
	StartingHeight int64    `json:"startingheight"` // claimed; -1 = not known
	SyncedHeaders  int64    `json:"synced_headers"` // proven
	SyncedBlocks   int64    `json:"synced_blocks"`
	BanScore       int      `json:"banscore"`
	Whitelisted    bool     `json:"whitelisted"`
	ConnectionType string   `json:"connection_type"`
}

// Getpeerinfo lists the peers that are ready.
func (b *rpcBitcoin) Getpeerinfo() []bitcoinPeer {
	peers := []bitcoinPeer{}
	for _, p := range b.s.node.Peers() {
		if p.Ready {
			peers = append(peers, bitcoinPeerOf(p))
		}
	}
	return peers
}

func bitcoinPeerOf(p parley.Peer) bitcoinPeer {
	v := bitcoinPeer{
		ID: peerNumber(p.ID), PeerID: p.ID, Addr: netAddress(p.Addr), Services: fmt.Sprintf("%016x", serviceBits(p.Services)), ServicesNames: p.Services,
		RelayTxes: p.Slot != "block_only", LastSend: p.LastSeen.Unix(), LastRecv: p.LastSeen.Unix(), BytesSent: p.BytesOut, BytesRecv: p.BytesIn,
		ConnTime: p.ConnectedAt.Unix(), PingTime: p.LatencyMS / 1000, Version: wire.ProtocolVersion, SubVer: p.Agent, Inbound: p.Direction == "inbound",
		StartingHeight: height(p.Claimed), SyncedHeaders: height(p.Validated), SyncedBlocks: height(p.Validated), BanScore: p.Points, Whitelisted: p.Trusted,
		Network: "not_publicly_routable", ConnectionType: "outbound-full-relay",
	}
	if ap, err := netip.ParseAddrPort(v.Addr); err == nil {
		v.Network = networkOf(ap.Addr())
	}
	switch {
	case p.Direction == "inbound":
		v.ConnectionType = "inbound"
	case p.Static:
		v.ConnectionType = "manual"
	case p.Slot == "block_only":
		v.ConnectionType = "block-relay-only"
	case p.Slot == "feeler":
		v.ConnectionType = "feeler"
	}
	return v
}

func networkOf(a netip.Addr) string {
	switch a = a.Unmap(); {
	case !a.IsGlobalUnicast() || a.IsPrivate():
		return "not_publicly_routable"
	case a.Is4():
		return "ipv4"
	}
	return "ipv6"
}

func height(h *chain.Head) int64 {
	if h == nil {
		return -1
	}
	return int64(h.Height)
}

// serviceBits turns names of services into their bits.
func serviceBits(names []string) (bits uint64) {
	for i := range 64 {
		if name := chain.Service(1 << i).Names(); len(name) == 1 && slices.Contains(names, name[0]) {
			bits |= 1 << i
		}
	}
	return bits
}

// peerNumber stands for a peer where a client wants a number of 31 bits.
func peerNumber(id peer.ID) uint32 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint32(sum[:]) >> 1
}

func (b *rpcBitcoin) Getconnectioncount() int { return b.s.node.PeerCount().Connected }

type bitcoinNetwork struct {
	Version            int              `json:"version"` // v1.2.3 = 1020300
	SubVersion         string           `json:"subversion"`
	ProtocolVersion    uint32           `json:"protocolversion"`
	LocalServices      string           `json:"localservices"`
	LocalServicesNames []string         `json:"localservicesnames"`
	LocalRelay         bool             `json:"localrelay"`
	TimeOffset         int              `json:"timeoffset"`
	NetworkActive      bool             `json:"networkactive"`
	Connections        int              `json:"connections"`
	ConnectionsIn      int              `json:"connections_in"`
	ConnectionsOut     int              `json:"connections_out"`
	Networks           []bitcoinReach   `json:"networks"`
	LocalAddresses     []bitcoinAddress `json:"localaddresses"`
	Warnings           string           `json:"warnings"`
}

type bitcoinReach struct {
	Name      string `json:"name"`
	Limited   bool   `json:"limited"`
	Reachable bool   `json:"reachable"`
	Proxy     string `json:"proxy"`
}

type bitcoinAddress struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
	Score   int    `json:"score"`
}

func (b *rpcBitcoin) Getnetworkinfo() bitcoinNetwork {
	i, st, c := b.s.node.Info(), b.s.node.Status(), b.s.node.PeerCount()
	own := b.s.node.Services()
	v := bitcoinNetwork{
		Version: versionNumber(b.s.node.Version().Version), SubVersion: i.Agent, ProtocolVersion: wire.ProtocolVersion,
		LocalServices: fmt.Sprintf("%016x", uint64(own)), LocalServicesNames: own.Names(), LocalRelay: true, NetworkActive: true,
		Connections: c.Connected, ConnectionsIn: c.Inbound, ConnectionsOut: c.Outbound, LocalAddresses: []bitcoinAddress{},
		Warnings: strings.Join(st.Reasons, "; "),
	}
	seen := map[string]bool{}
	for _, text := range i.Listen {
		seen["ipv4"] = seen["ipv4"] || strings.HasPrefix(text, "/ip4/")
		seen["ipv6"] = seen["ipv6"] || strings.HasPrefix(text, "/ip6/")
	}
	for _, name := range []string{"ipv4", "ipv6"} {
		v.Networks = append(v.Networks, bitcoinReach{Name: name, Limited: !seen[name], Reachable: seen[name]})
	}
	told := map[bitcoinAddress]bool{}
	for _, text := range i.Advertised {
		ip, port := firstTCP([]string{text})
		if a := (bitcoinAddress{Address: ip, Port: port}); ip != "" && !told[a] {
			told[a] = true
			v.LocalAddresses = append(v.LocalAddresses, a)
		}
	}
	return v
}

// versionNumber is 0 for a build without a version.
func versionNumber(text string) int {
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "v"), "-")
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return 0
	}
	n := 0
	for _, part := range parts {
		i, err := strconv.Atoi(part)
		if err != nil || i < 0 || i > 99 {
			return 0
		}
		n = n*100 + i
	}
	return n * 100
}

type bitcoinBan struct {
	Address       string `json:"address"` // or a peer id
	Created       int64  `json:"ban_created"`
	Until         int64  `json:"banned_until"`
	Duration      int64  `json:"ban_duration"`
	TimeRemaining int64  `json:"time_remaining"`
	Reason        string `json:"ban_reason"`
}

func (b *rpcBitcoin) Listbanned(ctx context.Context) ([]bitcoinBan, error) {
	leave := b.s.lists.take(ctx, callerOf(ctx), rpcAddr(ctx)) // they can be many
	if leave == nil {
		return nil, b.s.rpcFault(rateLimited.problem(b.s.lists.busy))
	}
	defer leave()
	bans := []bitcoinBan{}
	for _, ban := range b.s.node.Bans("", "", false) {
		until := int64(forEver)
		if ban.Until != nil {
			until = ban.Until.Unix()
		}
		created := ban.Created.Unix()
		bans = append(bans, bitcoinBan{ban.Target, created, until, until - created, max(0, until-time.Now().Unix()), ban.Reason})
	}
	return bans, nil
}

// Isbanned tells whether a ban covers a peer id, an address or a range.
func (b *rpcBitcoin) Isbanned(target string) (bool, error) {
	ban, err := b.s.node.BanOf(target)
	return ban != nil, b.s.rpcFault(err)
}

// Addnode adds or removes a static peer, or connects once.
func (b *rpcBitcoin) Addnode(ctx context.Context, item, command string, _ *bool) error {
	err := noEnode(item)
	switch {
	case err != nil:
	case command == "add":
		_, err = b.s.node.AddPeer(ctx, item, false)
	case command == "remove":
		_, err = b.s.node.RemovePeer(ctx, item)
	case command == "onetry":
		_, err = b.s.node.ConnectPeer(ctx, item)
	default:
		err = badParams("command: want add, remove or onetry")
	}
	return b.s.rpcFault(err)
}

// Disconnectnode closes the connection with a peer: by its address, or with ""
// by its number in getpeerinfo or its id.
func (b *rpcBitcoin) Disconnectnode(ctx context.Context, address *string, id *json.RawMessage) error {
	text := ""
	if address != nil {
		text = *address
	}
	if text == "" && id != nil {
		found, err := b.peerByNumber(*id)
		if err != nil {
			return err
		}
		text = found
	}
	if text == "" {
		return badParams("want an address, or the id of getpeerinfo")
	}
	who, err := b.s.node.FindPeer(text, false)
	if err == nil {
		_, err = b.s.node.DisconnectPeer(ctx, who)
	}
	return b.s.rpcFault(err)
}

func (b *rpcBitcoin) peerByNumber(raw json.RawMessage) (string, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var n uint32
	if json.Unmarshal(raw, &n) != nil {
		return "", badParams("id: want the id of getpeerinfo, or a peer id")
	}
	for _, p := range b.s.node.Peers() {
		if peerNumber(p.ID) == n {
			return p.ID.String(), nil
		}
	}
	return "", b.s.rpcFault(notFound.problem(fmt.Sprintf("no peer with id %d is connected: see getpeerinfo", n)))
}

// Setban bans a peer id, an address or a range, or lifts that. Seconds is how
// long, or with absolute until when, since 1970; 0 = bans.duration.
func (b *rpcBitcoin) Setban(ctx context.Context, target, command string, seconds *int64, absolute *bool) error {
	actor := callerOf(ctx).actor()
	switch command {
	case "remove":
		return b.s.rpcFault(b.s.node.Unban(ctx, target, actor))
	case "add":
	default:
		return badParams("command: want add or remove")
	}
	r := parley.BanRequest{Target: target, Actor: actor}
	if seconds != nil && *seconds != 0 {
		n := *seconds
		if n < 0 || n > forEver {
			return badParams("seconds: want 0 or more")
		}
		r.Until = time.Unix(n, 0)
		if absolute == nil || !*absolute {
			r.Until = time.Now().Add(time.Duration(min(n, maxBanSeconds)) * time.Second)
		}
	}
	_, _, err := b.s.node.Ban(ctx, r, false)
	return b.s.rpcFault(err)
}

// maxBanSeconds keeps a sum of times within what a time can be.
const maxBanSeconds = 100 * 365 * 24 * 3600

func (b *rpcBitcoin) Clearbanned(ctx context.Context) error {
	_, err := b.s.node.ClearBans(ctx, "all", callerOf(ctx).actor())
	return b.s.rpcFault(err)
}
