package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// explained is what a code means and what to do. Codes below 100 are of single
// requests, others are findings about a node.
type explained struct {
	Code  string   `json:"code"`
	Title string   `json:"title"`
	Means string   `json:"means"`
	Do    string   `json:"do"`
	Also  []string `json:"also,omitempty"` // other titles under which a node tells of it
}

// codes are in their order. A number is never used again for something else.
var codes = []explained{
	{"PLY-001", "internal", "The node failed at a request in a way that it did not foresee. HTTP 500.",
		"Look at the node's log at that time; report it with a support archive: parley debug bundle.", nil},
	{"PLY-002", "bad-request", "The request cannot be read: a value that has another form, a body that is no JSON. HTTP 400.",
		"The detail names the value. The routes are described at /docs.", nil},
	{"PLY-003", "invalid", "The request was read, but values of it are not allowed. HTTP 422.",
		"errors lists each one, with its place and why.", nil},
	{"PLY-004", "unauthenticated", "This needs a token, or the token is not good: its signature, its end, or its form. HTTP 401.",
		"parley token create --scope admin --data-dir DIR on the node's machine, then --token-file FILE, or authorization: Bearer TOKEN. The local socket needs none.", nil},
	{"PLY-005", "forbidden", "The token's scope is too small, or the request came by a way that may not do this. HTTP 403.",
		"Use a token of scope admin; for a Host that is refused, see api.allowed_hosts.", nil},
	{"PLY-006", "not-found", "There is no such thing: peer, ban, block, record, route. HTTP 404.",
		"The detail names what was looked for; list what there is, for example with parley peers list.", nil},
	{"PLY-007", "conflict", "The request is against what holds now, such as a ban that would cut off a trusted peer. HTTP 409.",
		"The detail names the rule. Where it offers force, --force (\"force\": true) overrules it.", nil},
	{"PLY-008", "too-large", "The body has more bytes than the route takes. HTTP 413.",
		"1 MiB for most routes, 128 KiB for a record, 4 MiB for records/batch, 16 MiB for an import of bans: send it in parts.", nil},
	{"PLY-009", "method-or-type", "The route takes another method or another media type, or speaks WebSocket. HTTP 405, 415 or 426.",
		"See Allow in the answer, and /docs.", nil},
	{"PLY-010", "rate-limited", "Too many requests came from this address, or as many as may run at once do. HTTP 429.",
		"Wait as long as Retry-After says, or use a token, which has ten times the rate. See api.rate.", nil},
	{"PLY-011", "not-on-this-network", "The node's network, or the way it runs, has no such thing. HTTP 501.",
		"See network in the configuration, and profile.", nil},
	{"PLY-012", "not-ready", "The node has no chain yet, or stops. HTTP 503.",
		"parley health says what is missing; try again after Retry-After.", nil},
	{"PLY-013", "tokens-off", "No secret of at least 32 bytes is there to check tokens with. HTTP 503.",
		"openssl rand -base64 32 into the file of api.jwt_secret_file, or unset JWT_SECRET; then start the node again.", nil},
	{"PLY-014", "full", "A place that is bounded is full: clients of the event stream, connections, the ban list. HTTP 503.",
		"limit in the answer names it; close what is not used, or raise api.max_clients or bans.max_entries.", nil},
	{"PLY-015", "timeout", "The node did not finish in the time that the request gave it. HTTP 504.",
		"Ask for more: timeout in the request, or --timeout. A record may be committed all the same: ask for it by its id.", nil},
	{"PLY-016", "dial-failed", "The peer could not be connected. HTTP 502.",
		"class says how it failed: refused, timeout, dns, wrong network. Look at its address, its port and its firewall.", nil},
	{"PLY-017", "record-refused", "The record breaks a rule of the chain, or there is no room for it now.",
		"reason names the rule. mempool_full, author_limit, rate_limited, disk_low, syncing and shutting_down pass: try again; duplicate is no fault; others need another record.", nil},

	{"PLY-100", "no answer", "The node that was asked does not answer.", "Start it with parley run or parley devnet, or name another with --node.", nil},
	{"PLY-101", "configuration", "The configuration has faults; the node does not start (exit 78).", "Each fault has its line, key and mend: parley config validate.", nil},
	{"PLY-102", "peers item", "An item of PEERS is there twice, unreadable or this node itself; it is left out.", "Correct the item that the warning names.", nil},
	{"PLY-103", "clock_skew", "Blocks of others are proposed at times that this node's clock does not know, or most peers have another time (clock_skew_peers).", "Set the clock, on whichever machine is wrong: timedatectl set-ntp true.", []string{"clock_skew_peers"}},
	{"PLY-104", "data directory", "The data directory, a file in it or a backup cannot be used: owner, mode, disk, damage.", "The text names the file. parley chain check DIR verifies a chain; a damaged one syncs again from peers or comes from a backup.", []string{"block_damaged", "store"}},
	{"PLY-105", "disk_low", "The disk of the data directory is nearly full; the node takes no more records before it is too late.", "Make room, or move the data directory. It goes on by itself.", nil},
	{"PLY-106", "files_low", "The process may have fewer files open than 4 for each of p2p.max_peers and 1,024 more: connections will be refused.", "LimitNOFILE=65536 in the unit, ulimit -n 65536 in the shell that starts it, or a smaller p2p.max_peers.", nil},
	{"PLY-111", "token secret", "The secret of tokens is shorter than 32 bytes; tokens are refused.", "openssl rand -base64 32 > FILE, and name FILE with api.jwt_secret_file.", nil},
	{"PLY-112", "address_book", "The address book could not be read or written.", "Look at the disk, and at the owner of the file that the text names. The node finds peers anew.", nil},
	{"PLY-113", "sink_down", "A sink of [[sink]] has taken no events for half a minute; those that wait are kept while api.event_buffer holds, and blocks and records come from the ledger beyond.", "The text has the sink's own error: see that it runs, has the stream or topic, and takes the credentials.", nil},
	{"PLY-114", "bans", "The store of bans is away, and changes of bans cannot be kept.", "Look at the disk, and at the database that bans.store names; the note has its error.", nil},
	{"PLY-115", "program", "No program is attached to the node of a sidecar network: nobody judges messages and answers requests.", "Start the program, which attaches over gRPC; sidecar.on_detached decides what becomes of messages until then.", nil},
	{"PLY-116", "bans_left_out", "The ban list is full, and new targets of a file of bans.import are not banned.", "parley bans list shows what may go; remove some, or raise bans.max_entries and start again. parley config reload then takes what is missing.", nil},
	{"PLY-201", "port taken", "A port that the node needs is used by another program.", "The text names the program and a flag for another port.", nil},
	{"PLY-202", "data directory in use", "Another node runs on the data directory.", "Stop that one, whose pid the text has where it can be known, or name another directory with --data-dir.", nil},
	{"PLY-302", "advertise", "An entry of p2p.advertise, p2p.host_ip or p2p.host_dns cannot be dialled by others and is left out, or a name in them leads nowhere.", "Name an address or a name that others reach.", nil},
	{"PLY-501", "no_inbound", "Alarm: nobody dials this node, though it listens on a public address.", "Forward p2p.port, TCP and UDP, on the router and open it on the firewall.", nil},
	{"PLY-502", "low_peers", "Alarm: fewer than half of the outbound slots are filled, though the address book knows of more peers.", "parley peers history tells how dials fail; name more peers in PEERS or p2p.bootstrap_peers.", nil},
	{"PLY-503", "no_peers_named", "The chain has other validators, and the configuration names no peer.", "Name one in PEERS, or parley peers add HOST:PORT.", nil},
	{"PLY-504", "peers", "Fewer peers are connected than p2p.min_peers wants.", "parley peers static tells how trying goes and why it fails: start the peers, or correct PEERS and their firewalls.", nil},
	{"PLY-505", "no chain at peers", "The peers that were asked have no chain to join.", "Start one of them without PEERS, or give all the same consortium.genesis_file.", nil},
	{"PLY-507", "dns_no_peers", "A name of discovery.dns leads to no peers.", "Correct the name or its records: A, AAAA, or TXT dnsaddr=.", nil},
	{"PLY-510", "ban_covers_static", "A static or trusted peer is banned, by its id or by its address: it stays away.", "parley bans remove what the text names, or parley peers remove the peer.", nil},
	{"PLY-511", "low_diversity", "Alarm: outbound peers share parts of the network, for there were no others.", "Name peers of other networks in PEERS, p2p.bootstrap_peers or discovery.dns.", nil},
	{"PLY-513", "shared key of a private network", "In a private network (p2p.shared_key_file), a configured peer was turned away because it proved none of this node's shared keys (shared_key_refused), or a peer dials, or is still connected, with another key than this node's first (old_shared_key).", "Compare fingerprints on both sides: parley key psk show. Give both the same key; while keys are changed, make the new one the first everywhere before the old one is removed anywhere.", []string{"old_shared_key", "shared_key_refused"}},
	{"PLY-514", "banned_by_others", "Several peers part with this node and say that it is banned.", "Look at what it sent: versions, clock, another chain behind the same address; ask their operators.", nil},
	{"PLY-515", "possible_eclipse", "Alarm: the node's peers may keep the chain from it: a stale head with all slots filled, other heads of other peers, or too many peers of one part of the network or one source.", "Compare the head with that of a node you trust, and name such nodes in PEERS. The node looks for one more peer elsewhere by itself.", nil},
	{"PLY-516", "book_poisoned", "Alarm: one part of the network told of most new peers, or new ones press for the places of proven ones that are gone.", "Name peers that you trust in PEERS; parley addrs export tells who told of each.", nil},
	{"PLY-517", "inbound_flood", "Alarm: connections come faster than places are for them.", "Static and outbound peers keep their places. parley peers history names who comes; parley bans add RANGE keeps a network out.", nil},
	{"PLY-518", "sybil_region", "Alarm: more peers than by chance, or too few parts of the network, are near one key of the DHT: its values may be kept back.", "Name the peers that you want in PEERS, and do not rely on that key alone.", nil},
	{"PLY-519", "dht_disagreement", "Alarm: one author signed two values of one sequence.", "Its key is in two hands, or its program at fault: ask who runs it.", nil},
	{"PLY-520", "ban_brake", "Alarm: several peers that this node chose itself earned a ban within minutes; automatic bans rest, the fault may be its own.", "Compare its version, chain and clock with its peers'; parley peers show tells what they are charged with.", nil},
	{"PLY-521", "ban_storm", "Alarm: this node bans many peers by itself.", "parley bans list --origin auto tells whom and why. If they are honest, compare versions, and parley bans clear --origin auto.", nil},
	{"PLY-522", "member_misbehaving", "Alarm: a static or trusted peer or a validator misbehaves. It is not banned; its connection is closed for a while each time.", "parley peers show tells what it is charged with: ask its operator, or take it off the list.", nil},
	{"PLY-523", "not_announced", "Alarm: most peers do not know that this node gossips, so they send it nothing.", "It tells them again once a minute and renews its gossip after two, and each 15 min; where that does not help, start it again.", nil},
	{"PLY-602", "fork", "Two certified blocks of one height exist. The node halts.", "Keep all data. parley chain fraud FILE FILE names who signed both; the operators decide which history holds.", nil},
	{"PLY-604", "no_quorum", "Fewer validators are connected than are needed to decide: nothing is committed.", "parley chain validators list shows who is missing.", []string{"validators"}},
	{"PLY-605", "vote_waits", "A validator that came out of a backup does not vote until others have decided two blocks.", "Nothing, where others vote. A sole validator needs consortium.sole_validator once.", nil},
	{"PLY-606", "engine_held_back", "The consensus engine ended several times in a short time and is started less often.", "The log has its reason; report it with parley debug bundle.", nil},
	{"PLY-607", "double_vote", "A validator signed two blocks of one height in one view.", "It is faulty or taken over: look at its machine, and remove it with parley chain validators remove.", nil},
	{"PLY-608", "lag", "The chain of this node is behind that of its peers, or no peer answers with its chain.", "parley status shows how syncing goes, and parley peers static how trying goes; where no peer answers, start or reach one.", nil},
}

func explainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "explain [CODE]", Short: "What a code like PLY-505 means, and what to do", Args: cobra.MaximumNArgs(1),
		Example: "parley explain PLY-505\nparley explain 505\nparley explain possible_eclipse\nparley explain",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return g.showValue(list[explained]{Items: codes, Count: len(codes)}, func() *table {
					t := &table{columns: []column{{name: "CODE"}, {name: "TITLE"}, {name: "MEANS"}}}
					for _, e := range codes {
						t.add(e.Code, e.Title, e.Means)
					}
					return t
				})
			}
			e, err := explain(args[0])
			if err != nil {
				return err
			}
			return g.showValue(e, func() *table {
				t := facts("code", e.Code, "title", e.Title)
				if len(e.Also) > 0 {
					t.add("also", strings.Join(e.Also, ", "))
				}
				t.add("means", e.Means)
				t.add("do", e.Do)
				t.whole = true
				return t
			})
		},
	}
}

func (e explained) titles() []string { return append([]string{e.Title}, e.Also...) }

const maxNear = 3 // titles that are suggested

// nearTitles are those that look like text.
func nearTitles(text string) (near []string) {
	if text == "" {
		return nil
	}
	bare := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
	}
	asked := bare(text)
	for _, e := range codes {
		for _, title := range e.titles() {
			has := bare(title)
			if has == asked {
				return []string{title}
			}
			if len(asked) >= 3 && (strings.Contains(has, asked) || strings.Contains(asked, has)) && len(near) < maxNear {
				near = append(near, title)
			}
		}
	}
	return near
}

var codeForm = regexp.MustCompile(`^(?:\[?[Pp][Ll][Yy]-)?([0-9]{1,3})\]?$`)

// explain finds a code, of which the number alone is enough, or by its title,
// which an alarm, a finding or a reason has for a name.
func explain(text string) (explained, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), ":")
	if i := slices.IndexFunc(codes, func(e explained) bool {
		return slices.ContainsFunc(e.titles(), func(title string) bool { return strings.EqualFold(title, text) })
	}); i >= 0 {
		return codes[i], nil
	}
	m := codeForm.FindStringSubmatch(text)
	if m == nil {
		near := ""
		if titles := nearTitles(text); len(titles) > 0 {
			near = ", did you mean " + strings.Join(titles, " or ") + "?"
		}
		return explained{}, fail(exitUsage, "%q is no code, which looks like PLY-505, and no title of one%s: parley explain lists them", text, near)
	}
	code := fmt.Sprintf("PLY-%03s", m[1])
	i := slices.IndexFunc(codes, func(e explained) bool { return e.Code == code })
	if i < 0 {
		return explained{}, fail(exitNotFound, "there is no code %s: parley explain lists them", code)
	}
	return codes[i], nil
}
