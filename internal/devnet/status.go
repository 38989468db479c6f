package devnet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
)

const (
	askTimeout   = 2 * time.Second  // for one node's status
	agreeTimeout = 60 * time.Second // for all nodes to agree, without any progress
)

// Row is a node as it is now.
type Row struct {
	Name      string      `json:"name"`
	Role      string      `json:"role"` // as the node says, else another node, else as it was last seen or made
	PID       int         `json:"pid"`  // 0 = does not run
	PeerID    peer.ID     `json:"peer_id,omitempty"`
	API       string      `json:"api"`
	Socket    string      `json:"socket"`
	Ops       string      `json:"ops,omitempty"`
	OpsOff    string      `json:"ops_off,omitempty"` // why there is none
	DataDir   string      `json:"data_dir"`
	Peers     int         `json:"peers"` // ready ones
	Height    uint64      `json:"height"`
	Head      *chain.Hash `json:"head"` // null until the node has a chain
	Records   uint64      `json:"records"`
	RecordsPS float64     `json:"records_s"`
	State     string      `json:"state"` // down | starting | waiting | syncing | synced | degraded
	Why       string      `json:"why,omitempty"`
}

// Status asks every node at once.
func (n *Net) Status(ctx context.Context) ([]Row, error) {
	s, err := n.State()
	if err != nil {
		return nil, err
	}
	return n.rows(ctx, s), nil
}

func (n *Net) rows(ctx context.Context, s *State) []Row {
	rows := make([]Row, len(s.Nodes))
	var wg sync.WaitGroup
	for i, node := range s.Nodes {
		wg.Go(func() { rows[i] = n.row(ctx, s, node) })
	}
	wg.Wait()
	n.setRoles(ctx, rows)
	return rows
}

// setRoles gives the nodes that do not answer the role that one which does
// knows: validators may have changed since they were made.
func (n *Net) setRoles(ctx context.Context, rows []Row) {
	silent := func(r Row) bool { return r.Head == nil }
	knows := slices.IndexFunc(rows, func(r Row) bool { return r.Head != nil })
	if knows < 0 || !slices.ContainsFunc(rows, silent) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var set struct{ Items []parley.Validator }
	if _, err := n.client(rows[knows].Name).Do(ctx, http.MethodGet, "chain/validators", nil, &set); err != nil || len(set.Items) == 0 {
		return
	}
	for i := range rows {
		if r := &rows[i]; silent(*r) {
			r.Role = RoleFollower
			if slices.ContainsFunc(set.Items, func(v parley.Validator) bool { return v.Name == r.Name }) {
				r.Role = RoleValidator
			}
		}
	}
}

func (n *Net) row(ctx context.Context, s *State, node Node) Row {
	r := Row{Name: node.Name, Role: or(node.Seen, node.Role), PeerID: node.PeerID, API: "http://" + s.API(node), Socket: n.Socket(node.Name), DataDir: n.NodeDir(node.Name), State: "down"}
	if !n.isUp(node) {
		return r
	}
	r.PID, r.State, r.OpsOff = node.PID, "starting", node.OpsOff
	if node.OpsPort != 0 {
		r.Ops = fmt.Sprintf("http://%s", s.API(Node{APIPort: node.OpsPort}))
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var status parley.Status
	if _, err := n.client(node.Name).Do(ctx, http.MethodGet, "status", nil, &status); err != nil {
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) { // it does not listen yet
			r.Why = err.Error()
		}
		return r
	}
	r.Role, r.PeerID, r.Peers, r.State = status.Role, status.PeerID, status.Peers.Inbound+status.Peers.Outbound, status.Sync.State
	if status.Verdict != "healthy" && r.State == "synced" {
		r.State = status.Verdict
	}
	if len(status.Reasons) > 0 {
		r.Why = status.Reasons[0]
	}
	if status.Head != nil {
		r.Height, r.Head = status.Head.Height, &status.Head.Hash
		var c parley.Chain
		if _, err := n.client(node.Name).Do(ctx, http.MethodGet, "chain", nil, &c); err == nil {
			r.Records = c.RecordCount
		}
	}
	return r
}

// Sampler adds rates to rows. It is for one goroutine.
type Sampler struct {
	last map[string]sample
}

type sample struct {
	records uint64
	at      time.Time
}

// Rate sets RecordsPS of each row, from its records since the call before.
func (s *Sampler) Rate(rows []Row, now time.Time) {
	next := map[string]sample{}
	for i := range rows {
		r := &rows[i]
		if r.Head == nil {
			continue
		}
		if before, ok := s.last[r.Name]; ok && r.Records >= before.records && now.After(before.at) {
			r.RecordsPS = float64(r.Records-before.records) / now.Sub(before.at).Seconds()
		}
		next[r.Name] = sample{r.Records, now}
	}
	s.last = next
}

// Missing says what keeps the nodes that run from agreeing, "" when they do:
// all have one head, validators see every validator that runs, and others
// somebody.
func Missing(rows []Row) string {
	height, _ := tallest(rows)
	return missing(rows, height)
}

// tallest is the greatest height of the nodes that run, once all have a chain.
func tallest(rows []Row) (height uint64, ok bool) {
	ok = true
	for _, r := range rows {
		height = max(height, r.Height)
		ok = ok && (r.PID == 0 || r.Head != nil)
	}
	return height, ok
}

// missing is [Missing] where it is enough to have reached a height.
func missing(rows []Row, height uint64) string {
	validators, running := 0, 0
	heads := map[uint64]*Row{}
	for i := range rows {
		r := &rows[i]
		if r.PID == 0 {
			continue
		}
		running++
		if r.Role == RoleValidator {
			validators++
		}
		if r.Head == nil {
			return strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", r.Name, r.State, r.Why), ": ")
		}
		if r.Height < height {
			return fmt.Sprintf("%s is at height %d of %d", r.Name, r.Height, height)
		}
		other := heads[r.Height]
		if other != nil && *other.Head != *r.Head {
			return fmt.Sprintf("%s and %s have different blocks at height %d", other.Name, r.Name, r.Height)
		}
		heads[r.Height] = r
	}
	for _, r := range rows {
		want := min(1, running-1) // a follower needs one who tells it
		if r.Role == RoleValidator {
			want = validators - 1
		}
		if r.PID != 0 && r.Peers < want {
			return fmt.Sprintf("%s sees %d of %d peers", r.Name, r.Peers, want)
		}
		if r.PID != 0 && want > 0 && (r.State == "waiting" || r.State == "syncing") { // alone it waits for ever
			return fmt.Sprintf("%s is %s", r.Name, r.State)
		}
	}
	return ""
}

// Agree returns when every node that runs has reached the greatest height that
// it found when all had answered, on one chain, and has its peers and is no
// longer waiting for any; during a partition, those of its group. A node that ends meanwhile is a *[NodeError].
// It gives up when nothing has changed for a minute.
func (n *Net) Agree(ctx context.Context, progress func(missing string)) error {
	before, err := n.State()
	if err != nil {
		return err
	}
	var last string
	goals := make([]goal, max(1, len(before.Partition)))
	changed := time.Now()
	poll(ctx, pollInterval, func() bool {
		if err = n.ended(before); err != nil {
			return true
		}
		var rows []Row
		if rows, err = n.Status(ctx); err != nil {
			return true
		}
		now := ""
		for i, group := range before.split(rows) {
			if m := goals[i].missing(group); now == "" {
				now = m
			}
		}
		if now != last {
			last, changed = now, time.Now()
			if progress != nil && now != "" {
				progress(now)
			}
		}
		if now != "" && time.Since(changed) > agreeTimeout {
			err = fmt.Errorf("the nodes do not agree: %s, and nothing has changed for %s: see parley devnet logs", now, agreeTimeout)
		}
		return now == "" || err != nil
	})
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// goal is the height that a group of nodes shall reach.
type goal struct {
	height uint64
	known  bool
}

func (g *goal) missing(rows []Row) string {
	if !g.known {
		g.height, g.known = tallest(rows)
	}
	return missing(rows, g.height)
}

// ended is the error of a node that this process started and nobody stopped,
// and that does not run.
func (n *Net) ended(before *State) error {
	for _, node := range before.Nodes {
		if n.child(node) != nil && !n.isUp(node) && n.wanted(node) {
			return n.nodeError(node, "ended at its start")
		}
	}
	return nil
}

// child is the node's last process where this process started it, else nil.
func (n *Net) child(node Node) *child {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.children[node.Name]; c != nil && c.pid == node.PID {
		return c
	}
	return nil
}

// wanted tells whether nobody stopped the node on purpose meanwhile.
func (n *Net) wanted(node Node) bool {
	s, err := n.State()
	if err != nil {
		return false
	}
	now, err := s.node(node.Name)
	return err == nil && now.PID == node.PID
}

func (n *Net) nodeError(node Node, why string) error {
	e := &NodeError{Node: node.Name, Why: why, Log: n.logPath(node.Name)}
	if f, err := os.Open(e.Log); err == nil {
		defer f.Close()
		e.Tail, _, _ = tail(f, tailLines) // what cannot be read is not shown
	}
	return e
}
