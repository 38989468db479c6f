package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/parley-p2p/parley/event"
)

// LogRooms are the rooms that log, by which log.level may name exceptions; p2p
// stands for all that begin with it.
var LogRooms = []string{
	"alarms", "api", "api.sink", "p2p.addrbook", "p2p.bans", "p2p.dialer", "p2p.discovery", "p2p.gossip", "p2p.handshake", "p2p.history",
	"p2p.host", "p2p.reputation", "p2p.slots", "replica", "replica.chainsync", "replica.consensus", "replica.ledger", "replica.mempool",
	"sidecar", "telemetry",
}

const maxPattern = 64 // bytes; no type of event is as long

// checkRoom tells whether rooms log under a name.
func checkRoom(name string) error {
	var known []string
	for _, room := range LogRooms {
		if room == name || strings.HasPrefix(room, name+".") {
			return nil
		}
		if group, _, is := strings.Cut(room, "."); is && !slices.Contains(known, group) {
			known = append(known, group)
		}
		known = append(known, room)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	return fmt.Errorf("%s, which is no room that logs%s", quote(name), Nearest(name, known, known))
}

// UnknownPatternError says that a pattern fits no type: it is misspelt, or for
// another version of the program.
type UnknownPatternError struct {
	Pattern string
	types   []string
	what    string
}

func (e *UnknownPatternError) Error() string {
	known, groups := slices.Clone(e.types), []string{}
	for _, t := range e.types {
		group, _, _ := strings.Cut(t, ".")
		if group += ".*"; !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return fmt.Sprintf("%s is no %s%s", quote(e.Pattern), e.what, Nearest(e.Pattern, append(known, groups...), groups))
}

// CheckEventPattern tells whether text is a pattern, such as peer.* or
// block.stored, that fits a type of event: of another one, which would wait for
// ever, it says so by an *[UnknownPatternError].
func CheckEventPattern(text string) error {
	return checkPattern(text, event.Types(), "type of event")
}

func checkPattern(text string, types []string, what string) error {
	if len(text) > maxPattern {
		return fmt.Errorf("%s is longer than the %d characters that a pattern over types of events may have", quote(text), maxPattern)
	}
	for _, t := range types {
		switch ok, err := path.Match(text, t); {
		case err != nil || text == "":
			return fmt.Errorf("%s is no pattern: want such as peer.* or block.stored", quote(text))
		case ok:
			return nil
		}
	}
	return &UnknownPatternError{text, types, what}
}

// Nearest names the candidate that was probably meant, or else what there is.
func Nearest(name string, candidates, all []string) string {
	if best := Suggest(name, candidates); best != "" {
		return ", did you mean " + best + "?"
	}
	return ": there are " + strings.Join(all, ", ")
}
