package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/devnet"
)

const (
	askLimit   = 2 * time.Second  // for a small answer
	stopLimit  = 20 * time.Second // for a node to drain; it promises 12 s
	nurseEvery = time.Second      // between two starts of a node that ends by itself
	configExit = 78               // exit code: a restart does not mend it
	tailBytes  = 2 << 10          // of a log, in a report
)

// node is one validator or follower, and the process that runs it.
type node struct {
	index    int // 1 … n
	name     string
	admin    bool // a validator of the genesis
	key      consortium.PublicKey
	space    string // network namespace
	binary   string
	dir      string // data directory
	config   string // file
	log      string // file
	api      *devnet.Client
	ended    func(n *node, code int) // the process ended, and nobody had asked it to
	answered func(d time.Duration)   // it answered that long after its start

	mu        sync.Mutex // guards below
	validator bool       // of the set now
	wanted    bool       // who ends by itself is started again
	child     *child     // nil: does not run
	paused    bool
}

// child is one process of a node.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	told bool          // we ended it; guarded by node.mu
}

// start runs the node, which MUST not run.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = true
	return n.spawn(context.WithoutCancel(ctx)) // it ends by kill or stop
}

func (n *node) spawn(ctx context.Context) error { // mu is held
	if n.child != nil {
		return fmt.Errorf("start %s: it runs already", n.name)
	}
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", n.name, err)
	}
	defer log.Close() // the child has its own
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", n.space, n.binary, "run", "--config", n.config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(n.config)}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	n.child, n.paused = c, false
	go n.nurse(ctx, c)
	go n.greet(ctx, c, began)
	return nil
}

// nurse waits for a process, and starts the node again as a supervisor does.
func (n *node) nurse(ctx context.Context, c *child) {
	_ = c.cmd.Wait() // how it ended is in its state
	n.mu.Lock()
	told := c.told
	n.child = nil
	n.api.HTTP.CloseIdleConnections()
	close(c.done)
	n.mu.Unlock()
	if told {
		return
	}
	n.ended(n, c.cmd.ProcessState.ExitCode())
	for {
		<-time.After(nurseEvery)
		n.mu.Lock()
		again := n.wanted && n.child == nil
		var err error
		if again {
			err = n.spawn(ctx)
		}
		n.mu.Unlock()
		if err == nil {
			return
		}
	}
}

// greet measures how long a process takes from its start to its first answer.
func (n *node) greet(ctx context.Context, c *child, began time.Time) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		ask, cancel := context.WithTimeout(ctx, askLimit)
		var chain parley.Chain
		status, err := n.get(ask, "chain", &chain)
		cancel()
		if err == nil && status == http.StatusOK {
			n.answered(time.Since(began))
			return
		}
	}
}

// kill ends the node as a power cut does to it, and returns when it is gone.
// killed is false where none ran.
func (n *node) kill() (killed bool) {
	n.mu.Lock()
	n.wanted = false
	c := n.child
	if c != nil {
		c.told = true
		_ = c.cmd.Process.Kill() // it may have ended
	}
	n.mu.Unlock()
	if c != nil {
		<-c.done
	}
	return c != nil
}

// stop lets the node drain. It is an error if it had to be killed, or says
// that something was wrong.
func (n *node) stop() error {
	n.mu.Lock()
	n.wanted = false
	c := n.child
	if c != nil {
		c.told = true
		_ = c.cmd.Process.Signal(syscall.SIGCONT)
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
	}
	n.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
	case <-time.After(stopLimit):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not stop within %s of SIGTERM", n.name, stopLimit)
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with exit code %d after SIGTERM: %s", n.name, code, n.lastWords())
	}
	return nil
}

// pause stops the process where it is; resume lets it go on.
func (n *node) pause()  { n.signal(syscall.SIGSTOP, true) }
func (n *node) resume() { n.signal(syscall.SIGCONT, false) }

func (n *node) signal(sig syscall.Signal, paused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child != nil {
		_ = n.child.cmd.Process.Signal(sig) // it may have ended
		n.paused = paused
	}
}

// votes tells whether the node is a validator now; elect makes it one, or a
// follower.
func (n *node) votes() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.validator
}

func (n *node) elect(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.validator = yes
}

// up tells whether the process runs and is not paused.
func (n *node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.child != nil && !n.paused
}

// lastWords is the end of the log.
func (n *node) lastWords() string {
	b, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-tailBytes):]))
}

func (n *node) get(ctx context.Context, path string, out any) (status int, err error) {
	return n.api.Do(ctx, http.MethodGet, path, nil, out)
}

// wipe empties the data directory of a node that does not run, but for its key.
func (n *node) wipe(keep string) error {
	entries, err := os.ReadDir(n.dir)
	for _, e := range entries {
		if e.Name() != keep {
			err = errors.Join(err, os.RemoveAll(filepath.Join(n.dir, e.Name())))
		}
	}
	return err
}
