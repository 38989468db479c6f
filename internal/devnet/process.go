package devnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parley-p2p/parley"
)

const (
	stopTimeout  = 10 * time.Second // as long as a node may drain
	pollInterval = 100 * time.Millisecond
	portGone     = time.Second // for the ports of a node to be free: files of a killed process close after its memory
	tailLines    = 12          // of a node's log in an error
)

// child is a process that we started and thus must wait for, lest it stays a
// zombie.
type child struct {
	pid  int
	done chan struct{} // closed when it has ended
}

// A NodeError says that a node did not start.
type NodeError struct {
	Node string
	Why  string
	Log  string // its file
	Tail []string
}

func (e *NodeError) Error() string {
	text := fmt.Sprintf("%s %s; its log is %s and ends:", e.Node, e.Why, e.Log)
	if len(e.Tail) == 0 {
		text = fmt.Sprintf("%s %s; its log %s is empty", e.Node, e.Why, e.Log)
	}
	for _, line := range e.Tail {
		text += "\n  " + line
	}
	return text
}

// Start starts every node and returns when all agree: the validators see each
// other, and all have one head. If that fails, what it started is stopped.
// progress, nil allowed, is told now and then what is missing.
func (n *Net) Start(ctx context.Context, progress func(missing string)) error {
	err := n.update(func(s *State) error {
		if up := n.running(s); len(up) > 0 {
			return fmt.Errorf("the devnet in %s runs already (%s): stop it with parley devnet down", n.dir, pids(up))
		}
		for i := range s.Nodes {
			if err := n.start(ctx, s, &s.Nodes[i]); err != nil {
				return errors.Join(err, n.abandon(ctx, s))
			}
		}
		s.Stopped, s.Partition = false, nil
		return nil
	})
	if err != nil {
		return err
	}
	if err := n.Agree(ctx, progress); err != nil {
		_, stopErr := n.Stop(ctx)
		return errors.Join(err, stopErr)
	}
	return nil
}

// abandon stops what has been started of s, which is not saved.
func (n *Net) abandon(ctx context.Context, s *State) error {
	_, err := n.stopAll(ctx, n.running(s))
	return err
}

// start starts one node in a session of its own: a Ctrl-C at our terminal does
// not reach it.
func (n *Net) start(ctx context.Context, s *State, node *Node) error {
	last := node.OpsPort
	wait, cancel := context.WithTimeout(ctx, portGone)
	defer cancel()
	poll(wait, 10*time.Millisecond, func() bool { return isFree(s.Bind, node.APIPort) && (last == 0 || isFree(s.Bind, last)) })
	node.OpsPort, node.OpsOff = s.opsPort(node.Name)
	if !isFree(s.Bind, node.APIPort) {
		return &PortError{Port: node.APIPort, Holder: parley.PortHolder(node.APIPort)}
	}
	if err := os.MkdirAll(n.NodeDir(node.Name), 0o700); err != nil {
		return fmt.Errorf("node directory: %w", err)
	}
	if err := n.writeConfig(s, *node); err != nil {
		return err
	}
	log, err := os.OpenFile(n.logPath(node.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", node.Name, err)
	}
	defer log.Close() // the child has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), n.binary, "run", "--config", n.configPath(node.Name))
	cmd.Env = environ(os.Environ())
	cmd.Dir = n.NodeDir(node.Name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", node.Name, err)
	}
	c := &child{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_ = cmd.Wait() // how it ended stands in its log
	}()
	node.PID = c.pid
	n.mu.Lock()
	defer n.mu.Unlock()
	n.children[node.Name] = c
	return nil
}

// environ leaves out what would configure a node: its parley.toml alone does.
func environ(all []string) []string {
	var keep []string
	for _, pair := range all {
		name, _, _ := strings.Cut(pair, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR", "TZ", "LANG", "XDG_RUNTIME_DIR", "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG", "GORACE", "GOTRACEBACK", "GOCOVERDIR":
			keep = append(keep, pair)
		}
	}
	return keep
}

// isUp tells whether the node's process runs. A PID that another program was
// given since does not count, nor does a zombie.
func (n *Net) isUp(node Node) bool {
	if node.PID <= 0 {
		return false
	}
	pid := strconv.Itoa(node.PID)
	if c := n.child(node); c != nil { // what runs has no name yet for a moment after its start
		select {
		case <-c.done:
			return false
		default:
			return !isZombie(pid) // somebody else killed it, and we have not heard
		}
	}
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if _, noProc := os.Stat("/proc/self/cmdline"); noProc != nil {
		b, err = exec.Command("ps", "-p", pid, "-o", "command=").Output() //nolint:noctx // answers at once
	}
	return err == nil && strings.Contains(string(b), n.configPath(node.Name))
}

// isZombie tells that a process has ended and waits for its parent. Without
// /proc it tells no.
func isZombie(pid string) bool {
	b, _ := os.ReadFile(filepath.Join("/proc", pid, "stat")) // none = it is gone, or there is no /proc
	stat := string(b)                                        // pid (name) state …; see proc(5)
	return strings.HasPrefix(stat[strings.LastIndex(stat, ")")+1:], " Z")
}

func (n *Net) running(s *State) []Node {
	var up []Node
	for _, node := range s.Nodes {
		if n.isUp(node) {
			up = append(up, node)
		}
	}
	return up
}

// Stop stops every node; those that needed a kill are named. ctx that has
// ended does not stop it from finishing.
func (n *Net) Stop(ctx context.Context) (killed []string, err error) {
	err = n.update(func(s *State) error {
		for i, r := range n.rows(context.WithoutCancel(ctx), s) {
			s.Nodes[i].Seen = r.Role
		}
		if killed, err = n.stopAll(ctx, n.running(s)); err != nil {
			return err
		}
		for i := range s.Nodes {
			s.Nodes[i].PID = 0
		}
		s.Stopped, s.Partition = true, nil
		return nil
	})
	return killed, err
}

// stopAll interrupts all nodes together, waits, and kills what stays.
func (n *Net) stopAll(ctx context.Context, nodes []Node) (killed []string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.patience)
	defer cancel()
	for _, node := range nodes {
		err = errors.Join(err, n.signal(node, syscall.SIGINT))
	}
	left := func() []Node {
		return slices.DeleteFunc(slices.Clone(nodes), func(node Node) bool { return !n.isUp(node) })
	}
	if poll(ctx, pollInterval, func() bool { return len(left()) == 0 }) {
		return nil, err
	}
	for _, node := range left() {
		killed = append(killed, node.Name)
		err = errors.Join(err, n.kill(node))
	}
	return killed, err
}

// signal sends sig to a node that runs.
func (n *Net) signal(node Node, sig syscall.Signal) error {
	if !n.isUp(node) {
		return nil
	}
	if err := syscall.Kill(node.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s (pid %d): %w", node.Name, node.PID, err)
	}
	return nil
}

// kill ends a node like a power cut does, and returns when it is gone.
func (n *Net) kill(node Node) error {
	if err := n.signal(node, syscall.SIGKILL); err != nil {
		return err
	}
	for range int(stopTimeout / pollInterval) {
		if !n.isUp(node) {
			return nil
		}
		<-time.After(pollInterval)
	}
	return fmt.Errorf("%s (pid %d) does not end after SIGKILL: it hangs in the kernel, look at its disk", node.Name, node.PID)
}

// Kill ends one node with SIGKILL: [ErrDown] when it does not run.
func (n *Net) Kill(name string) (Node, error) {
	var killed Node
	err := n.update(func(s *State) error {
		node, err := s.node(name)
		if err != nil {
			return err
		}
		if !n.isUp(*node) {
			return fmt.Errorf("%s is %w: start it with parley devnet restart %s", node.Name, ErrDown, node.Name)
		}
		killed = *node
		node.PID = 0
		return n.kill(killed)
	})
	return killed, err
}

// Restart stops the named nodes, all without names, and starts them again. It
// returns when all nodes that run agree. A partition goes on.
func (n *Net) Restart(ctx context.Context, names []string, progress func(missing string)) error {
	var again []string
	err := n.update(func(s *State) error {
		which := []*Node{}
		for _, name := range names {
			node, err := s.node(name)
			if err != nil {
				return err
			}
			which = append(which, node)
		}
		if len(names) == 0 {
			for i := range s.Nodes {
				which = append(which, &s.Nodes[i])
			}
		}
		var up []Node
		for _, node := range which {
			if n.isUp(*node) {
				up = append(up, *node)
			}
		}
		if _, err := n.stopAll(ctx, up); err != nil {
			return err
		}
		var started []Node
		for _, node := range which {
			if err := n.start(ctx, s, node); err != nil {
				_, stopErr := n.stopAll(ctx, started)
				return errors.Join(err, stopErr)
			}
			started = append(started, *node)
			again = append(again, node.Name)
		}
		s.Stopped = false
		return nil
	})
	if err != nil {
		return err
	}
	if err := n.cutAgain(ctx, again); err != nil {
		return err
	}
	return n.Agree(ctx, progress)
}

// Add starts one more node, which is told the first node's address and nothing
// else. It returns when the node has the head of all. name "" = the next number.
func (n *Net) Add(ctx context.Context, name string, progress func(missing string)) (Node, error) {
	var added Node
	err := n.update(func(s *State) error {
		if s.Partition != nil {
			return errors.New("a partition is on, and a new node would join its sides: end it with parley devnet heal")
		}
		if !n.isUp(s.Nodes[0]) {
			return fmt.Errorf("%s is %w, and it is whom a new node asks: parley devnet restart %s", s.Nodes[0].Name, ErrDown, s.Nodes[0].Name)
		}
		added = Node{Name: or(name, s.nextName()), Role: RoleFollower}
		if err := checkName(added.Name); err != nil {
			return err
		}
		if known, err := s.node(added.Name); err == nil {
			return fmt.Errorf("node %s exists: choose another name", known.Name)
		}
		if _, err := os.Stat(n.NodeDir(added.Name)); err == nil {
			return fmt.Errorf("%s exists and is no node of this devnet: choose another name, or move it away", n.NodeDir(added.Name))
		}
		var err error
		if added.APIPort, err = s.freePort(s.Nodes[0].APIPort + len(s.Nodes)); err != nil {
			return err
		}
		s.Nodes = append(s.Nodes, added)
		err = n.start(ctx, s, &s.Nodes[len(s.Nodes)-1])
		added = s.Nodes[len(s.Nodes)-1]
		return err
	})
	if err != nil {
		return Node{}, err
	}
	return added, n.Agree(ctx, progress)
}

func (s *State) nextName() string {
	for i := len(s.Nodes) + 1; ; i++ {
		name := fmt.Sprintf("node%d", i)
		if _, err := s.node(name); err != nil {
			return name
		}
	}
}
