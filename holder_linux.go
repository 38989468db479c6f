package parley

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// PortHolder names the process that listens on a TCP port, "pid 4711 (nginx)",
// as far as this user may see it; "" = unknown. Linux only.
func PortHolder(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if inode := listeningInode(table, port); inode != "" {
			return holderOf(inode)
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

// socketHolder names the process that listens at the other end of a local
// connection, " (pid 4711)"; "" = unknown.
func socketHolder(c net.Conn) (text string) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	_ = raw.Control(func(fd uintptr) { // it is closed
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil && cred.Pid > 0 {
			text = fmt.Sprintf(" (pid %d)", cred.Pid)
		}
	})
	return text
}

func holderOf(inode string) string {
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
	return ""
}
