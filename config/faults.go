package config

import (
	"strconv"
	"strings"
	"unicode"
)

// Rules that a Fault can name.
const (
	RuleFile           = "file"        // a file cannot be read
	RuleSyntax         = "syntax"      // a file is no TOML or YAML
	RuleUnknownKey     = "unknown_key" // no such key in this version
	RuleType           = "type"        // the value is not of the key's type
	RuleRange          = "range"       // the value is outside its bounds or not one of the choices
	RuleMultiaddr      = "multiaddr"   // no address that we can listen on or advertise
	RulePeerItem       = "peer_item"   // an item of PEERS that nobody can dial
	RuleHandshakeTopic = "handshake_topic"
	RuleListenConflict = "listen_conflict" // two listeners want one port
	RuleNetwork        = "network"
	RuleChainID        = "chain_id"     // chain id or genesis hash not well formed
	RulePSKQUIC        = "psk_quic"     // a shared key together with an address of QUIC, WebTransport or WebRTC
	RuleTLSPair        = "tls_pair"     // a certificate without its key, or files that do not fit together
	RuleSecretValue    = "secret_value" // a secret where only a file is allowed
)

// Fault is one thing that is wrong with the configuration. Text never shows a secret.
type Fault struct {
	Where string // "parley.toml:12:8", "env PARLEY_P2P__PORT", "flag --p2p-port", "default"
	Key   string // "" where it is about a whole file
	Rule  string
	Text  string
}

// String gives the one line that users see.
func (f Fault) String() string {
	line := f.Where + ": "
	if f.Key != "" {
		line += f.Key + ": "
	}
	line += f.Text + " [PLY-101 " + f.Rule + "]"
	return strings.Map(func(r rune) rune { // keys and parsers' words come from outside: one line, and no terminal codes
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, line)
}

// FaultsError is every fault of a configuration, weakest source first; Faults is never empty. A node ends with exit code 78.
type FaultsError struct{ Faults []Fault }

// Error gives one line for each fault.
func (e *FaultsError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// problem is a fault before it is known where the value came from.
type problem struct{ rule, text string }

// quote shows a value from outside in a fault: escaped, and cut where it is long.
func quote(text string) string {
	const most = 80 // bytes; enough to know it again, and keeps the fault on one line
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.Quote(text)
}

// Suggest returns the candidate that was probably meant by name, or "".
func Suggest(name string, candidates []string) string {
	if longer := begunBy(name, candidates); longer != "" {
		return longer
	}
	best, least := "", 1+min(3, len(name)/3) // more changes than that and it is another word
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	if best != "" {
		return best
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, c := range candidates { // the right key in the wrong section, if only one section has it
		if c[strings.LastIndexByte(c, '.')+1:] == last {
			if best != "" {
				return ""
			}
			best = c
		}
	}
	return best
}

// begunBy returns the one candidate that goes on with a word after name, or "".
func begunBy(name string, candidates []string) string {
	found := ""
	for _, c := range candidates {
		if len(c) > len(name) && strings.EqualFold(c[:len(name)], name) && c[len(name)] == '_' {
			if found != "" {
				return ""
			}
			found = c
		}
	}
	return found
}

// distance counts the letters to insert, delete, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	const longest = 64 // no key is longer; bounds the work on nonsense
	if len(a) > longest || len(b) > longest {
		return longest
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
