// Package devnet owns several nodes as processes on one machine: their
// directories, keys and ports, their start and end, and load on them.
package devnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What a devnet is made of when nothing else is said.
const (
	DefaultDir      = "parley-devnet" // in the working directory
	DefaultNodes    = 3
	DefaultBasePort = 8080
	DefaultBind     = "127.0.0.1"

	opsAbove = 1010 // the first node's ops port is so far above its API's: 9090 by default
	maxNodes = 31   // validators of a genesis
)

// Roles of a node in its devnet.
const (
	RoleValidator = "validator" // stands in the genesis
	RoleFollower  = "follower"  // joined later, told one address only
)

var (
	// ErrNone means that the directory holds no devnet.
	ErrNone = errors.New("no devnet")
	// ErrNoNode means that the devnet has no node of that name.
	ErrNoNode = errors.New("no such node")
	// ErrDown means that a node that is needed does not run.
	ErrDown = errors.New("not running")
)

// Options say what [Create] makes. Zero values mean what the directory holds
// already, else the defaults.
type Options struct {
	Dir      string
	Binary   string // parley, for the nodes
	Nodes    int    // validators
	BasePort int    // API of the first node
	Bind     string // IP address of API and p2p
}

// Net is a devnet in its directory. The truth about it is in the directory, so
// several processes may work on one devnet. All methods are safe for
// concurrent use.
type Net struct {
	dir      string // absolute, without symbolic links
	binary   string
	patience time.Duration // for a node to drain, then it is killed

	mu       sync.Mutex
	children map[string]*child // guarded by mu: nodes that this process started
	clients  map[string]*Client
}

// Node is one node of a devnet, as devnet.json keeps it.
type Node struct {
	Name    string  `json:"name"`
	Role    string  `json:"role"`                // as it was made
	Seen    string  `json:"seen_role,omitempty"` // role at the last stop of the devnet, "" = Role
	PID     int     `json:"pid"`                 // of its last process, 0 = stopped by us
	PeerID  peer.ID `json:"peer_id,omitempty"`
	APIPort int     `json:"api_port"`
	OpsPort int     `json:"ops_port"`          // 0 = none
	OpsOff  string  `json:"ops_off,omitempty"` // why there is none
}

// State is devnet.json.
type State struct {
	Version int    `json:"version"`
	Bind    string `json:"bind"`
	Stopped bool   `json:"stopped"` // the whole devnet was told to stop
	Nodes   []Node `json:"nodes"`

	Partition [][]string `json:"partition,omitempty"` // groups of node names, until it is healed
}

// Open opens the devnet in dir: [ErrNone] when there is none.
func Open(dir, binary string) (*Net, error) {
	abs, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	n := newNet(abs, binary)
	_, err = n.State()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: start one with parley devnet, or name another directory with --dir", ErrNone, dir)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func newNet(dir, binary string) *Net {
	return &Net{dir: dir, binary: binary, patience: stopTimeout, children: map[string]*child{}, clients: map[string]*Client{}}
}

// Create opens the devnet in o.Dir, or makes its keys and genesis. It settles
// the ports, of which all must be free: else a *[PortError]. It starts nothing.
func Create(o Options) (*Net, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n, err := Open(o.Dir, o.Binary)
	if errors.Is(err, ErrNone) {
		return establish(o)
	}
	if err != nil {
		return nil, err
	}
	err = n.update(func(s *State) error {
		if up := n.running(s); len(up) > 0 {
			return fmt.Errorf("the devnet in %s runs already (%s): look with parley devnet status, stop it with parley devnet down, or name another --dir", o.Dir, pids(up))
		}
		if have := s.validators(); o.Nodes != 0 && o.Nodes != have {
			return fmt.Errorf("the devnet in %s has %d nodes in its genesis, not %d: leave out --nodes, add one with parley devnet add, or name another --dir", o.Dir, have, o.Nodes)
		}
		if o.Bind != "" {
			s.Bind = o.Bind
		}
		if o.BasePort != 0 {
			for i := range s.Nodes {
				s.Nodes[i].APIPort = o.BasePort + i
			}
		}
		return s.checkPorts(o.Dir)
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (o Options) check() error {
	if o.Nodes < 0 || o.Nodes > maxNodes {
		return fmt.Errorf("a devnet of %d nodes: want 1 to %d", o.Nodes, maxNodes)
	}
	if o.BasePort < 0 || o.BasePort > 1<<16-1-max(o.Nodes, DefaultNodes) {
		return fmt.Errorf("base port %d: want 1 to %d, the nodes take it and the ports after it", o.BasePort, 1<<16-1-max(o.Nodes, DefaultNodes))
	}
	if o.Bind != "" && net.ParseIP(o.Bind) == nil {
		return fmt.Errorf("bind address %q is no IP address: want one like 127.0.0.1 or 0.0.0.0", o.Bind)
	}
	return nil
}

// resolve gives dir one spelling, by which processes know their nodes.
func resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("devnet directory %s: %w", dir, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	return abs, nil
}

// NodeDir is the data directory of a node.
func (n *Net) NodeDir(name string) string { return filepath.Join(n.dir, name) }

func (n *Net) configPath(name string) string { return filepath.Join(n.dir, name, "parley.toml") }
func (n *Net) logPath(name string) string    { return filepath.Join(n.dir, name, "node.log") }

func (s *State) validators() int {
	count := 0
	for _, node := range s.Nodes {
		if node.Role == RoleValidator {
			count++
		}
	}
	return count
}

// node finds a node by its name; n2 is short for node2.
func (s *State) node(name string) (*Node, error) {
	i := slices.IndexFunc(s.Nodes, func(node Node) bool { return node.Name == name || shortName(node.Name) == name })
	if i < 0 {
		names := make([]string, len(s.Nodes))
		for i, node := range s.Nodes {
			names[i] = node.Name
		}
		return nil, fmt.Errorf("%w: %q; the devnet has %s", ErrNoNode, name, strings.Join(names, ", "))
	}
	return &s.Nodes[i], nil
}

var numbered = regexp.MustCompile(`^node([0-9]+)$`)

func shortName(name string) string { return numbered.ReplaceAllString(name, "n$1") }

// API is the host:port at which this machine reaches a node's API.
func (s *State) API(node Node) string {
	host := s.Bind
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = DefaultBind
	}
	return net.JoinHostPort(host, strconv.Itoa(node.APIPort))
}

// peers is what a node is told: in the genesis, all the others that are in it;
// later, the first node and no more. Once it has the chain it may be a validator
// too, and the ports may have moved: it is told all the others.
func (n *Net) peers(s *State, of Node) []string {
	_, err := os.Stat(filepath.Join(n.NodeDir(of.Name), "ledger"))
	later := of.Role != RoleValidator
	if later && err != nil {
		return []string{s.API(s.Nodes[0])}
	}
	list := []string{}
	for _, node := range s.Nodes {
		if (later || node.Role == RoleValidator) && node.Name != of.Name {
			list = append(list, s.API(node))
		}
	}
	return list
}

func pids(nodes []Node) string {
	list := make([]string, len(nodes))
	for i, node := range nodes {
		list[i] = fmt.Sprintf("%s pid %d", node.Name, node.PID)
	}
	return strings.Join(list, ", ")
}

// poll calls f at once and then each interval until it returns true or ctx
// ends.
func poll(ctx context.Context, interval time.Duration, f func() bool) bool {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		if f() {
			return true
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
}
