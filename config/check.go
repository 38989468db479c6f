package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// checker is what a check may know beside the value. A check may also put the value into its normal form.
type checker struct {
	devnet   bool     // port 0 is legal
	warnings []string // without the key
}

func (k *checker) warn(format string, args ...any) {
	k.warnings = append(k.warnings, fmt.Sprintf(format, args...))
}

func one(rule, format string, args ...any) []problem {
	return []problem{{rule, fmt.Sprintf(format, args...)}}
}

// otherNetworks are names that later versions know.
var otherNetworks = []string{"mainnet", "sepolia", "hoodi", "lukso", "lukso-testnet"}

func checkNetwork(_ *checker, c *Config) []problem {
	if c.Network == NetworkConsortium || c.Network == NetworkSidecar {
		return nil
	}
	if slices.Contains(otherNetworks, c.Network) {
		return one(RuleNetwork, "%s is not in this version, which has consortium and sidecar", quote(c.Network))
	}
	return one(RuleNetwork, "%s is no network: this version has consortium and sidecar", quote(c.Network))
}

var (
	networkName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	chainID     = regexp.MustCompile(`^[a-z0-9-]{3,48}$`) // LEDGER 2
	topicName   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
)

func checkNetworkName(_ *checker, c *Config) []problem {
	if !networkName.MatchString(c.NetworkName) {
		return one(RuleRange, "%s is not 1 to 32 of the characters a-z, 0-9 and -", quote(c.NetworkName))
	}
	return nil
}

func checkNodeName(_ *checker, c *Config) []problem {
	if name := c.Node.Name; len(name) > maxNodeName || !utf8.ValidString(name) || strings.ContainsFunc(name, unprintable) {
		return one(RuleRange, "%s is not printable text of at most %d bytes", quote(name), maxNodeName)
	}
	return nil
}

const maxNodeName = 64 // bytes; it travels in every handshake

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func notEmpty(value func(*Config) string) func(*checker, *Config) []problem {
	return func(_ *checker, c *Config) []problem {
		if value(c) == "" {
			return one(RuleRange, "is empty: give a file name")
		}
		return nil
	}
}

func checkPeerID(_ *checker, c *Config) []problem {
	if c.Node.PeerID == "" {
		return nil
	}
	id, err := peer.Decode(c.Node.PeerID)
	if err != nil {
		return one(RuleRange, "%s is no peer id like 12D3KooW…: parley key show tells a node's own", quote(c.Node.PeerID))
	}
	c.Node.PeerID = id.String()
	return nil
}

func checkBaseURL(_ *checker, c *Config) []problem {
	if c.Node.BaseURL == "" {
		return nil
	}
	if err := checkURL(c.Node.BaseURL, true); err != nil {
		return one(RuleRange, "%s %s", quote(c.Node.BaseURL), err)
	}
	return nil
}

func checkLogLevel(_ *checker, c *Config) []problem {
	if _, _, err := ParseLogLevel(c.Log.Level); err != nil {
		return one(RuleRange, "%s", err)
	}
	return nil
}

func checkChainID(_ *checker, c *Config) []problem {
	if id := c.Consortium.ChainID; id != "" && !chainID.MatchString(id) {
		return one(RuleChainID, "%s is not 3 to 48 of the characters a-z, 0-9 and -", quote(id))
	}
	return nil
}

func checkGenesisHash(_ *checker, c *Config) []problem {
	hash := strings.ToLower(strings.TrimPrefix(c.Consortium.GenesisHash, "sha256:")) // as genesis.json has it
	if b, err := hex.DecodeString(hash); hash != "" && (err != nil || len(b) != 32) {
		return one(RuleChainID, "%s is not a hash of 64 hex digits", quote(c.Consortium.GenesisHash))
	}
	c.Consortium.GenesisHash = hash
	return nil
}

func checkSecretFile(_ *checker, c *Config) []problem {
	if c.API.JWTSecretFile == "" {
		return one(RuleRange, "is empty: give a file name")
	}
	return notSecret(c.API.JWTSecretFile, "JWT_SECRET")
}

func checkSharedKeyFile(_ *checker, c *Config) []problem {
	return notSecret(c.P2P.SharedKeyFile, "p2p_shared_key")
}

// notSecret catches the secret itself where its file belongs; the fault does not show it.
func notSecret(file, env string) []problem {
	if _, err := hex.DecodeString(file); strings.ContainsRune(file, '\n') || (err == nil && len(file) >= 64) {
		return one(RuleSecretValue, "looks like the secret itself: give the name of a file that holds it, or set %s", env)
	}
	return nil
}

// checkBanStore sees to it that a mistyped URL makes no file of that name.
func checkBanStore(_ *checker, c *Config) []problem {
	s := c.Bans.Store
	scheme, _, isURL := strings.Cut(s, "://")
	switch {
	case s == "":
		return one(RuleRange, "is empty: give a file name, or postgres://USER@HOST/DB")
	case isURL && scheme != "postgres" && scheme != "postgresql":
		return one(RuleRange, "%s:// is no store: give a file name, or postgres://USER@HOST/DB", quote(scheme))
	case isURL:
		if _, err := url.Parse(s); err != nil {
			return one(RuleRange, "is no URL: give postgres://USER@HOST/DB") // the error would show the password
		}
	}
	return nil
}

const minSecret = 32 // bytes, as many as HS256's hash

func warnShortSecret(k *checker, c *Config) []problem {
	if n := len(c.API.JWTSecret); n > 0 && n < minSecret {
		k.warn("has %d bytes and needs %d: the API refuses every token; make one with `openssl rand -base64 32` [PLY-111]", n, minSecret)
	}
	return nil
}

func checkAllowedHosts(_ *checker, c *Config) []problem {
	var out []problem
	for _, host := range c.API.AllowedHosts {
		if !isHost(host) {
			out = append(out, problem{RuleRange, quote(host) + " is no host name: leave out scheme and port"})
		}
	}
	return out
}

func checkCompat(_ *checker, c *Config) []problem {
	var out []problem
	for _, name := range c.API.Compat {
		if !slices.Contains(compats, name) {
			out = append(out, problem{RuleRange, quote(name) + " is none of " + strings.Join(compats, ", ")})
		}
	}
	return out
}

// checkCORS takes origins as browsers write them.
func checkCORS(_ *checker, c *Config) []problem {
	var out []problem
	for _, origin := range c.API.CORS {
		if origin == "*" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.String() != u.Scheme+"://"+u.Host || strings.ContainsRune(u.Host, '*') {
			out = append(out, problem{RuleRange, quote(origin) + " is no origin: write scheme and host, and a port that is not the scheme's, like https://app.example.org"})
		}
	}
	return out
}

func checkTLSKey(_ *checker, c *Config) []problem {
	if strings.ContainsRune(c.API.TLSKey, '\n') {
		return one(RuleSecretValue, "looks like the key itself: give the name of a file that holds it")
	}
	return nil
}

func checkStaticPeers(k *checker, c *Config) []problem {
	items, warnings, errs := parsePeers(c.P2P.StaticPeers)
	k.warnings = append(k.warnings, warnings...)
	c.P2P.StaticPeers = items
	var out []problem
	for _, err := range errs {
		out = append(out, problem{RulePeerItem, err.Error()})
	}
	return out
}

func checkTrustedPeers(k *checker, c *Config) []problem {
	var out []problem
	var list []string
	for _, text := range c.P2P.TrustedPeers {
		id, err := peer.Decode(text)
		if err != nil {
			out = append(out, problem{RulePeerItem, quote(text) + " is no peer id like 12D3KooW…: parley peers list -o wide shows those of connected peers"})
			continue
		}
		if slices.Contains(list, id.String()) {
			k.warn("%s is there twice: used once [PLY-102]", quote(text))
			continue
		}
		list = append(list, id.String())
	}
	c.P2P.TrustedPeers = list
	return out
}

func checkP2PListen(k *checker, c *Config) []problem {
	var out []problem
	list := make([]string, 0, len(c.P2P.Listen))
	for _, item := range c.P2P.Listen {
		addrs, err := k.listenAddrs(item)
		if err != nil {
			out = append(out, problem{RuleMultiaddr, quote(item) + " " + err.Error()})
			continue
		}
		if slices.ContainsFunc(addrs, func(text string) bool { return multiaddrPort(text) == 0 }) && !k.devnet {
			out = append(out, problem{RuleRange, quote(item) + " has port 0, which only profile devnet may use"})
			continue
		}
		if strings.HasPrefix(item, "/") {
			item = addrs[0]
		}
		list = append(list, item) // expandListen does the rest, when it is known whether there is a shared key
	}
	c.P2P.Listen = list
	return out
}

// listenAddrs reads an item of p2p.listen: an IP and a multiaddr stand for
// themselves, and IP:port for TCP and QUIC on that port.
func (k *checker) listenAddrs(item string) ([]string, error) {
	if strings.HasPrefix(item, "/") {
		text, err := k.multiaddr(item)
		return []string{text}, err
	}
	if _, err := netip.ParseAddr(item); err == nil {
		return []string{item}, nil
	}
	host, port, err := net.SplitHostPort(item)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil {
		return nil, errors.New("is neither an IP, IP:port nor a multiaddr like /ip4/0.0.0.0/tcp/9906")
	}
	ips := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("names no IP to listen on: write /ip4/0.0.0.0/tcp/%d, with the address of an interface of this machine for 0.0.0.0", n)
		}
		ips = []netip.Addr{ip}
	}
	var addrs []string
	for _, ip := range ips {
		at := "/ip6/" + ip.String()
		switch {
		case ip.Is4():
			at = "/ip4/" + ip.String()
		case ip.Zone() != "":
			at = "/ip6zone/" + ip.Zone() + "/ip6/" + ip.WithZone("").String()
		}
		addrs = append(addrs, fmt.Sprintf("%s/tcp/%d", at, n), fmt.Sprintf("%s/udp/%d/quic-v1", at, n))
	}
	return addrs, nil
}

// multiaddr reads an address into its normal form and warns where that differs.
func (k *checker) multiaddr(text string) (string, error) {
	addr, err := parseMultiaddr(text)
	if err != nil {
		return "", err
	}
	if addr.String() != text {
		k.warn("%s is read as %s", quote(text), addr)
	}
	return addr.String(), nil
}

// multiaddrPort returns the port of a valid multiaddr, -1 without one.
func multiaddrPort(text string) int {
	addr, err := ma.NewMultiaddr(text)
	if err != nil {
		return -1
	}
	for _, code := range []int{ma.P_TCP, ma.P_UDP} {
		if port, err := addr.ValueForProtocol(code); err == nil {
			if n, err := strconv.Atoi(port); err == nil {
				return n
			}
		}
	}
	return -1
}

func checkP2PPort(k *checker, c *Config) []problem {
	if n := c.P2P.Port; n < 0 || n > 65535 || n == 0 && !k.devnet {
		return one(RuleRange, "%d is not from 1 to 65535 (0 only in profile devnet)", n)
	}
	return nil
}

func checkAPIListen(k *checker, c *Config) []problem {
	var out []problem
	for _, text := range c.API.Listen {
		l, err := ParseListen(text)
		if err != nil {
			out = append(out, problem{RuleRange, err.Error()})
			continue
		}
		if l.port() == 0 && !k.devnet {
			out = append(out, problem{RuleRange, quote(text) + " has port 0, which only profile devnet may use"})
		}
	}
	return out
}

func checkOpsListen(k *checker, c *Config) []problem {
	if c.Ops.Listen == "" {
		return nil
	}
	l, err := ParseListen(c.Ops.Listen)
	switch {
	case err != nil:
		return one(RuleRange, "%s", err)
	case l.Network != "tcp" || l.Optional:
		return one(RuleRange, "%s is not host:port", quote(c.Ops.Listen))
	case l.port() == 0 && !k.devnet:
		return one(RuleRange, "%s has port 0, which only profile devnet may use", quote(c.Ops.Listen))
	}
	return nil
}

func checkTopic(name string, at func(*Config) *string) func(*checker, *Config) []problem {
	return func(_ *checker, c *Config) []problem {
		topic := *at(c)
		switch {
		case topic == "" && name == "handshake":
			return one(RuleHandshakeTopic, "is empty: give a name, or leave it out for the default")
		case !topicName.MatchString(topic):
			return one(RuleRange, "%s is not 1 to 64 of the characters A-Z, a-z, 0-9, _, . and -", quote(topic))
		}
		return nil
	}
}

// checkTopics finds topics with one name, which would mix their messages.
func checkTopics(c *Config) map[string]problem {
	out := make(map[string]problem)
	owner := make(map[string]string)
	for _, k := range knobs {
		if !strings.HasPrefix(k.name, topicsPrefix) {
			continue
		}
		topic := format(k.at(c))
		if first, taken := owner[topic]; taken {
			out[k.name] = problem{RuleRange, fmt.Sprintf("%s is already the name of %s", quote(topic), first)}
			continue
		}
		owner[topic] = k.name
	}
	return out
}

// checkListeners finds two listeners on one port. Legal are: an API and a p2p listener while p2p.on_api_port is on (they share
// it), several p2p listeners (libp2p sorts them, or says at the start that it cannot), and entries with a ? (they give way).
func checkListeners(c *Config) map[string]problem {
	out := make(map[string]problem)
	type used struct {
		key string
		l   Listen
	}
	var tcp []used
	claim := func(key, text string) {
		l, err := ParseListen(text)
		if err != nil || l.Optional || l.port() == 0 {
			return
		}
		for _, u := range tcp {
			p2p := strings.HasPrefix(key, "p2p.")
			shared := p2p && (strings.HasPrefix(u.key, "p2p.") || c.P2P.OnAPIPort && u.key == "api.listen")
			if !shared && u.l.overlaps(l) {
				out[key] = problem{RuleListenConflict, fmt.Sprintf("%s is taken by %s (%s): choose another port", quote(text), u.key, u.l.Address)}
				return
			}
		}
		tcp = append(tcp, used{key, l})
	}
	for _, text := range c.API.Listen {
		claim("api.listen", text)
	}
	for key, text := range p2pTCP(c) {
		claim(key, text)
	}
	if c.Ops.Listen != "" {
		claim("ops.listen", c.Ops.Listen)
	}
	return out
}

// p2pTCP yields each TCP address of libp2p as key and host:port.
func p2pTCP(c *Config) func(yield func(key, text string) bool) {
	return func(yield func(key, text string) bool) {
		if len(c.P2P.Listen) == 0 {
			yield("p2p.port", net.JoinHostPort("", strconv.Itoa(c.P2P.Port)))
			return
		}
		for _, item := range c.P2P.Listen {
			text := net.JoinHostPort(item, strconv.Itoa(c.P2P.Port))
			if addr, err := ma.NewMultiaddr(item); err == nil {
				port, err := addr.ValueForProtocol(ma.P_TCP)
				if err != nil {
					continue
				}
				text = net.JoinHostPort(addr[0].Value(), port)
			}
			if !yield("p2p.listen", text) {
				return
			}
		}
	}
}
