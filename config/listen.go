package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Listen is one entry of api.listen.
type Listen struct {
	Network  string // tcp or unix, for net.Listen
	Address  string // host:port or path
	Optional bool   // skip it if the address is taken
}

// ParseListen reads host:port, :port or unix:PATH, each with an optional ? at its end.
func ParseListen(text string) (Listen, error) {
	l := Listen{Network: "tcp"}
	l.Address, l.Optional = strings.CutSuffix(text, "?")
	if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
		l.Network, l.Address = "unix", path
		if path == "" || strings.ContainsRune(path, 0) {
			return Listen{}, fmt.Errorf("%s has no path: give unix:/path/of.sock", quote(text))
		}
		return l, nil
	}
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil || (host != "" && !isHost(host)) {
		return Listen{}, fmt.Errorf("%s is neither host:port nor unix:PATH", quote(text))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Listen{}, fmt.Errorf("%s has no port from 1 to 65535", quote(text))
	}
	l.Address = net.JoinHostPort(host, strconv.FormatUint(n, 10))
	return l, nil
}

// String gives the text that ParseListen reads.
func (l Listen) String() string {
	text := l.Address
	if l.Network == "unix" {
		text = "unix:" + text
	}
	if l.Optional {
		text += "?"
	}
	return text
}

// port is -1 for a path.
func (l Listen) port() int {
	_, port, err := net.SplitHostPort(l.Address)
	n, cerr := strconv.Atoi(port)
	if l.Network != "tcp" || err != nil || cerr != nil {
		return -1
	}
	return n
}

// overlaps says whether both want one port of one interface, or one path.
func (l Listen) overlaps(o Listen) bool {
	if l.Network != o.Network || l.Network == "unix" {
		return l.Network == o.Network && l.Address == o.Address
	}
	a, _, _ := net.SplitHostPort(l.Address)
	b, _, _ := net.SplitHostPort(o.Address)
	return l.port() == o.port() && (a == b || isWildcard(a) || isWildcard(b))
}

func isWildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || (err == nil && addr.IsUnspecified())
}

// ParseLogLevel reads log.level: a level, and exceptions by room, like "info,p2p.gossip=debug". Without a level of its own
// the root is info. Rooms are those of LogRooms, and what they begin with.
func ParseLogLevel(text string) (root slog.Level, rooms map[string]slog.Level, err error) {
	rooms = make(map[string]slog.Level)
	for part := range strings.SplitSeq(text, ",") {
		room, name, isRoom := strings.Cut(strings.TrimSpace(part), "=")
		if !isRoom {
			name = room
		}
		level, ok := logLevels[name]
		if !ok || (isRoom && room == "") {
			return 0, nil, fmt.Errorf("%s has a part %s that is not debug, info, warn, error or ROOM=LEVEL", quote(text), quote(part))
		}
		if isRoom {
			if err := checkRoom(room); err != nil {
				return 0, nil, fmt.Errorf("%s has a level for %w", quote(text), err)
			}
			rooms[room] = level
		} else {
			root = level
		}
	}
	return root, rooms, nil
}

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}
