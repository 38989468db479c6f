package devnet

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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
	for _, node := range s.Nodes {
		if isFree(s.Bind, node.APIPort) {
			continue
		}
		if err := canBind(s.Bind); err != nil {
			return err
		}
		return &PortError{Port: node.APIPort, Holder: holder(node.APIPort), Dir: dir, Base: freeBase(s.Bind, s.Nodes[0].APIPort, len(s.Nodes))}
	}
	return nil
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

// holder names the process that listens on a TCP port, as far as this user may
// see it. Linux only.
func holder(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		inode := listeningInode(table, port)
		if inode == "" {
			continue
		}
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // only a bad pattern fails
		for _, link := range links {
			if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
				continue
			}
			pid := strings.Split(link, "/")[2]
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				return "pid " + pid
			}
			return fmt.Sprintf("pid %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// listeningInode finds the socket that listens on port: columns are the slot,
// local address, remote address, state (0A = listen), …, inode.
func listeningInode(table string, port int) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		c := strings.Fields(lines.Text())
		if len(c) > 9 && strings.HasSuffix(c[1], want) && c[3] == "0A" {
			return c[9]
		}
	}
	return ""
}
