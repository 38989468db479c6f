package devnet

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/parley-p2p/parley"
)

// portStep is the distance to the next base port that is tried.
const portStep = 10

// A PortError says that a port of the devnet is taken.
type PortError struct {
	Port   int
	Holder string // "pid 4711 (nginx)", "" = unknown
	Base   int    // a base port from which all that are needed are free, 0 = none
	Dir    string // of the devnet, as the user named it
}

func (e *PortError) Error() string {
	text := fmt.Sprintf("port %d is taken by %s", e.Port, or(e.Holder, "another process"))
	if e.Base != 0 {
		text += fmt.Sprintf(": run parley devnet --base-port %d", e.Base)
		if e.Dir != DefaultDir {
			text += " --dir " + e.Dir
		}
	}
	return text + " [PLY-201]"
}

// checkPorts looks whether the API port of each node is free.
func (s *State) checkPorts(dir string) error {
	for i, node := range s.Nodes {
		if node.APIPort >= 1<<16 {
			return fmt.Errorf("%s would have port %d: choose a --base-port of at most %d", node.Name, node.APIPort, 1<<16-len(s.Nodes))
		}
		if slices.ContainsFunc(s.Nodes[:i], func(o Node) bool { return o.APIPort == node.APIPort }) {
			return fmt.Errorf("%s has port %d, which another node of the devnet has: choose a --base-port", node.Name, node.APIPort)
		}
	}
	for _, node := range s.Nodes {
		if isFree(s.Bind, node.APIPort) {
			continue
		}
		if err := canBind(s.Bind); err != nil {
			return err
		}
		return &PortError{Port: node.APIPort, Holder: parley.PortHolder(node.APIPort), Dir: dir, Base: freeBase(s.Bind, s.Nodes[0].APIPort, len(s.Nodes))}
	}
	return nil
}

// opsPort is the port for the metrics of a node, or 0 and why there is none.
func (s *State) opsPort(name string) (port int, off string) {
	port = s.Nodes[0].APIPort + opsAbove + slices.IndexFunc(s.Nodes, func(o Node) bool { return o.Name == name })
	api := slices.IndexFunc(s.Nodes, func(o Node) bool { return o.APIPort == port })
	switch {
	case port >= 1<<16:
		return 0, fmt.Sprintf("it would be %d: with a --base-port of at most %d there is one", port, 1<<16-opsAbove-len(s.Nodes))
	case api >= 0:
		return 0, fmt.Sprintf("port %d is the API's of %s", port, s.Nodes[api].Name)
	case !isFree(s.Bind, port):
		return 0, fmt.Sprintf("port %d is taken by %s", port, or(parley.PortHolder(port), "another process"))
	}
	return port, ""
}

// isFree tells whether a process could listen there now.
func isFree(host string, port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))) //nolint:noctx // nothing to wait for
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// canBind tells a wrong address from a taken port.
func canBind(host string) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0")) //nolint:noctx // nothing to wait for
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("bind address %s: %w: choose one of this machine with --bind", host, err)
	}
	if err == nil {
		_ = l.Close()
	}
	return nil
}

// freeBase finds the next base port with n free ports from it on.
func freeBase(host string, after, n int) int {
	for base := after + portStep; base+n <= 1<<16; base += portStep {
		free := 0
		for free < n && isFree(host, base+free) {
			free++
		}
		if free == n {
			return base
		}
	}
	return 0
}

// freePort finds the first free port from port on that no node of s has.
func (s *State) freePort(port int) (int, error) {
	for ; port < 1<<16; port++ {
		mine := false
		for _, node := range s.Nodes {
			mine = mine || node.APIPort == port || node.OpsPort == port
		}
		if !mine && isFree(s.Bind, port) {
			return port, nil
		}
	}
	return 0, errors.New("no port is free for the node's API")
}
