package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// alias is another system's name for a key.
type alias struct {
	name     string
	key      string // "" = accepted without effect
	over     string // native key that wins over the alias, "" = key
	fileOnly bool
	envOnly  bool
	warn     string // what whoever uses the alias is told, "" = nothing
	edits    bool   // changes a part of the value, so several of them may act on one key
	// convert turns the text into the value of key, given what weaker sources left; nil value = leave as it is.
	// A nil convert takes the text as it is.
	convert func(c *Config, text string) (value any, err error)
}

// aliases in the order in which they act; of two for one key the first wins.
var aliases = []alias{
	{name: "PEERS", key: staticPeersKey},
	{name: "PROVCHAIN_PEERS", key: staticPeersKey},
	{name: "PROVCHAIN_BIND_ADDRESS", key: "api.listen", edits: true, convert: bindAddress},
	{name: "PROVCHAIN_PORT", key: "api.listen", edits: true, convert: bindPort},
	{name: "PROVCHAIN_PUBLIC_ADDRESS", key: "p2p.advertise"},
	{name: "PROVCHAIN_NETWORK_ID", key: "network_name"},
	{name: "PROVCHAIN_DATA_DIR", key: "data_dir"},
	{name: "PROVCHAIN_LOG_LEVEL", key: "log.level", convert: provchainLevel},
	{name: "RUST_LOG", key: "log.level", convert: rustLevel},
	{name: "JWT_SECRET", key: jwtSecretKey, over: jwtFileKey},
	{name: "OTEL_EXPORTER_OTLP_ENDPOINT", key: otlpKey},
	{name: "JAEGER_ENDPOINT", key: otlpKey, convert: jaegerEndpoint, warn: "is read as telemetry.otlp_endpoint: traces go by OTLP over HTTP, port 4318"},
	{name: "OTEL_SERVICE_NAME", key: "telemetry.service_name"},

	{name: "p2p_listen_addresses", key: "p2p.listen", envOnly: true, convert: teranodeList},
	{name: "p2p_advertise_addresses", key: "p2p.advertise", envOnly: true, convert: teranodeList},
	{name: "p2p_shared_key", key: sharedKeyKey, over: sharedFileKey, envOnly: true, convert: unlessEmpty},
	{name: "p2p_port", key: "p2p.port", envOnly: true, convert: unlessEmpty},
	{name: "p2p_static_peers", key: staticPeersKey, envOnly: true, convert: teranodeList},
	{name: "p2p_optimise_retries", key: "p2p.optimise_retries", envOnly: true, convert: unlessEmpty},
	{name: "p2p_bootstrapAddresses", key: bootstrapPeersKey, envOnly: true, convert: teranodeList},
	{name: "p2p_bootstrap_peers", key: bootstrapPeersKey, envOnly: true, convert: teranodeList},
	{name: "p2p_dht_protocol_id", key: "discovery.dht_protocol", envOnly: true, convert: unlessEmpty},
	{name: "p2p_ban_threshold", key: "bans.threshold", envOnly: true, convert: unlessEmpty},
	{name: "p2p_ban_duration", key: "bans.duration", envOnly: true, convert: unlessEmpty},
	{name: "ban_default_duration", key: "bans.duration", envOnly: true, convert: unlessEmpty},
	{name: "ban_max_entries", key: "bans.max_entries", envOnly: true, convert: unlessEmpty},
	{name: "banlist_db", key: "bans.store", envOnly: true, convert: banStore},
	{name: "p2p_dht_use_private", key: "discovery.dht_scope", envOnly: true, convert: dhtScope},
	{name: "p2p_httpListenAddress", key: "api.listen", envOnly: true, edits: true, convert: addListener},
	{name: "p2p_grpcListenAddress", key: "api.listen", envOnly: true, edits: true, convert: addListener},
	{name: "p2p_peer_id", key: "node.peer_id", envOnly: true, convert: unlessEmpty},
	{name: "p2p_private_key", key: nodeKeyKey, envOnly: true, convert: unlessEmpty},
	{name: "server_certFile", key: tlsCertKey, envOnly: true, convert: unlessEmpty},
	{name: "server_keyFile", key: tlsKeyKey, envOnly: true, convert: unlessEmpty},
	{name: "asset_httpAddress", key: "node.base_url", envOnly: true, convert: unlessEmpty},
	{name: "p2p_block_topic", key: topicsPrefix + "block", envOnly: true, convert: unlessEmpty},
	{name: "p2p_subtree_topic", key: topicsPrefix + "subtree", envOnly: true, convert: unlessEmpty},
	{name: "p2p_mining_on_topic", key: topicsPrefix + "mining_on", envOnly: true, convert: unlessEmpty},
	{name: "p2p_rejected_tx_topic", key: topicsPrefix + "rejected_tx", envOnly: true, convert: unlessEmpty},
	{name: "p2p_bestblock_topic", key: topicsPrefix + "best_block", envOnly: true, convert: unlessEmpty},
	{name: "p2p_handshake_topic", key: topicsPrefix + "handshake", envOnly: true, convert: handshakeTopic},

	{name: "p2p-tcp-port", key: "p2p.port", fileOnly: true},
	{name: "p2p-quic-port", key: "p2p.quic_port", fileOnly: true},
	{name: "p2p-host-ip", key: "p2p.host_ip", fileOnly: true},
	{name: "p2p-host-dns", key: "p2p.host_dns", fileOnly: true},
	{name: "p2p-max-peers", key: "p2p.max_peers", fileOnly: true},
	{name: "peer", key: staticPeersKey, fileOnly: true},
	{name: "bootstrap-node", key: bootstrapPeersKey, fileOnly: true},
}

// securityLevel is Teranode's switch: 1 = HTTPS alone. A certificate is used without it, too.
const securityLevel = "securityLevelHTTP"

// findAlias also knows OpenTelemetry's other variables, which its library reads.
func findAlias(name string) (alias, bool) {
	i := slices.IndexFunc(aliases, func(a alias) bool { return a.name == name })
	if i < 0 {
		return alias{name: name}, strings.HasPrefix(name, "OTEL_")
	}
	return aliases[i], true
}

// aliasText is the text that an alias's value would have had in the environment.
func aliasText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case int, int64, bool:
		return fmt.Sprint(v), nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", fmt.Errorf("has at position %d something that is no text", i+1)
			}
			items[i] = text
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("is of the wrong type")
}

func unlessEmpty(_ *Config, text string) (any, error) {
	if text == "" {
		return nil, nil
	}
	return text, nil
}

func teranodeList(_ *Config, text string) (any, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	return strings.ReplaceAll(text, "|", ","), nil
}

// banStore reads a store as Teranode names it: sqlite:///x, sqlitememory, postgres://….
func banStore(_ *Config, text string) (any, error) {
	switch file, is := strings.CutPrefix(text, "sqlite://"); {
	case text == "":
		return nil, nil
	case is:
		return strings.TrimPrefix(file, "/"), nil
	}
	return text, nil
}

func handshakeTopic(_ *Config, text string) (any, error) {
	if text == "" {
		return nil, errHandshakeTopic
	}
	return text, nil
}

var errHandshakeTopic = errors.New("p2p_handshake_topic not set in config") // Teranode's words

// rustLevel takes the level without a target from text like "provchain=debug,info"; what other programs' targets say is
// theirs, and text without a level has no effect.
func rustLevel(_ *Config, text string) (any, error) {
	for part := range strings.SplitSeq(text, ",") {
		if level, ok := rustLevels[strings.ToLower(strings.TrimSpace(part))]; ok {
			return level, nil
		}
	}
	return nil, nil
}

// provchainLevel is a single level; one that it does not know is left to the check of log.level.
func provchainLevel(_ *Config, text string) (any, error) {
	if level, ok := rustLevels[strings.ToLower(strings.TrimSpace(text))]; ok {
		return level, nil
	}
	return text, nil
}

var rustLevels = map[string]string{
	"trace": "debug", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "off": "error",
}

// bindAddress and bindPort change the first entry of api.listen; where that is a socket file they put one before it.
func bindAddress(c *Config, text string) (any, error) {
	host := strings.Trim(strings.TrimSpace(text), "[]")
	if host != "" && !isHost(host) {
		return nil, fmt.Errorf("%s is neither an IP address nor a host name", quote(text))
	}
	return editFirst(c, func(_, port string) string { return net.JoinHostPort(host, port) }), nil
}

func bindPort(c *Config, text string) (any, error) {
	if _, err := strconv.ParseUint(text, 10, 16); err != nil {
		return nil, fmt.Errorf("%s is not a port from 1 to 65535", quote(text))
	}
	return editFirst(c, func(host, _ string) string { return net.JoinHostPort(host, text) }), nil
}

func editFirst(c *Config, edit func(host, port string) string) []string {
	list := slices.Clone(c.API.Listen)
	if len(list) > 0 {
		if l, err := ParseListen(list[0]); err == nil && l.Network == "tcp" {
			if host, port, err := net.SplitHostPort(l.Address); err == nil {
				l.Address = edit(host, port)
				list[0] = l.String()
				return list
			}
		}
	}
	return slices.Insert(list, 0, edit("0.0.0.0", "8080"))
}

// addListener adds one of Teranode's listeners to api.listen, unless it is there.
func addListener(c *Config, text string) (any, error) {
	if text == "" {
		return nil, nil
	}
	l, err := ParseListen(text)
	if err != nil {
		return nil, err
	}
	if slices.Contains(c.API.Listen, l.String()) {
		return nil, nil
	}
	return append(slices.Clone(c.API.Listen), l.String()), nil
}
