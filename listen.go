package parley

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/parley-p2p/parley/config"
)

// A StartError is a fault that a restart will not mend: configuration, wrong
// owner, a foreign data directory, a newer schema. The process exits with 78.
type StartError struct {
	Code int // PLY code, 101 for configuration
	Err  error
}

func (e *StartError) Error() string { return fmt.Sprintf("%v [PLY-%d]", e.Err, e.Code) }

// Unwrap implements the errors convention.
func (e *StartError) Unwrap() error { return e.Err }

// A PortError says that an address is taken.
type PortError struct {
	Key    string // configuration key
	Addr   string
	Holder string // "pid 4711 (nginx)", "" = unknown
	Free   string // an address that is free now
	Err    error
}

func (e *PortError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("%s %s is taken by %s: choose another, for example %s [PLY-201]", e.Key, e.Addr, holder, e.Free)
}

// Unwrap implements the errors convention.
func (e *PortError) Unwrap() error { return e.Err }

// Listener is a listener of the API.
type Listener struct {
	net.Listener
	Name     string // as configured
	Admin    bool   // a unix socket: scope admin without a token
	Loopback bool
}

// listen opens the listeners of the API and the local socket.
func (n *Node) listen() ([]Listener, error) {
	if n.env.NoListeners {
		return nil, nil
	}
	var ls []Listener
	closeAll := func(err error) ([]Listener, error) {
		for _, l := range ls {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	socket := SocketPath(n.cfg.DataDir)
	if filepath.Base(socket) != socketName {
		if err := ownDir(filepath.Dir(socket)); err != nil {
			return closeAll(err)
		}
	}
	local, err := openListener("unix:" + socket) // first: who has this directory has its ports too, most often
	if err != nil {
		return closeAll(err)
	}
	ls = append(ls, local)
	for _, item := range n.cfg.API.Listen {
		addr, optional := strings.CutSuffix(item, "?")
		l, err := openListener(addr)
		if err != nil && optional {
			n.log.Debug("listener skipped", "addr", addr, "err", err)
			continue
		}
		if err != nil {
			return closeAll(err)
		}
		ls = append(ls, l)
	}
	ls = append(ls[1:], local)
	if slices.Contains(n.cfg.API.Compat, config.CompatJSONRPC) {
		if n.ipc, err = listenUnix(IPCPath(n.cfg.DataDir)); err != nil {
			return closeAll(err)
		}
	}
	return ls, nil
}

func openListener(addr string) (Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		l, err := listenUnix(path)
		return Listener{Listener: l, Name: addr, Admin: true}, err
	}
	l, err := bind("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return Listener{}, NewPortError("api.listen", addr, err)
	}
	if err != nil {
		return Listener{}, fmt.Errorf("api.listen %s: %w", addr, ForeignAddr(err))
	}
	ap, err := netip.ParseAddrPort(l.Addr().String())
	return Listener{Listener: l, Name: addr, Loopback: err == nil && ap.Addr().IsLoopback()}, nil
}

func bind(network, addr string) (net.Listener, error) {
	return net.Listen(network, addr) //nolint:noctx // it waits for nobody
}

// listenUnix makes a socket that only its owner may use. A socket file that
// nobody answers on is left from a crash.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil { //nolint:noctx // a local socket answers at once
		defer c.Close()
		return nil, fmt.Errorf("socket %s is in use: another node%s runs on this data directory; stop it, or choose another --data-dir [PLY-202]", path, socketHolder(c))
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, &StartError{101, fmt.Errorf("api.listen unix:%s is a file, not a socket: choose another path", path)}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("old socket: %w", err)
	}
	old := syscall.Umask(0o177)
	l, err := bind("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// ownDir makes a directory for this user alone. Where others may write, one of
// them could listen in our place.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &StartError{104, fmt.Errorf("directory of the local socket: %w", err)}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return &StartError{104, fmt.Errorf("directory of the local socket: %w", err)}
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ownedByUs(info) {
		return &StartError{104, fmt.Errorf("%s, the directory of the local socket, is open to others: remove it, or set XDG_RUNTIME_DIR", dir)}
	}
	return nil
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid()
}

const (
	socketName    = "parley.sock"
	maxSocketPath = 100 // what the kernel takes, with room for other systems' less
)

// SocketPath is the local socket of the node on a data directory. A path that
// is too long for a socket moves to the run time directory, or to a directory
// of this user alone, under a name made from it.
func SocketPath(dataDir string) string { return localPath(dataDir, ".sock") }

// IPCPath is the local socket of JSON-RPC, in the same directory under the same
// name.
func IPCPath(dataDir string) string { return localPath(dataDir, ".ipc") }

func localPath(dataDir, ending string) string {
	path := filepath.Join(dataDir, socketName)
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if len(path) <= maxSocketPath {
		return strings.TrimSuffix(path, ".sock") + ending
	}
	name := fmt.Sprintf("parley-%s%s", shortDigest(path), ending)
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		return filepath.Join(run, name)
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("parley-%d", os.Geteuid()), name)
}

// NewPortError finds out who holds addr, the value of a configuration key, and
// which port after it is free.
func NewPortError(key, addr string, err error) *PortError {
	e := &PortError{Key: key, Addr: addr, Free: addr, Err: err}
	host, text, _ := net.SplitHostPort(addr) // it was listened on
	if port, err := strconv.Atoi(text); err == nil {
		e.Holder, e.Free = PortHolder(port), freeAddr(host, port)
	}
	return e
}

// ForeignAddr says what to do where err is of an address that this machine does
// not have.
func ForeignAddr(err error) error {
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return err
	}
	return fmt.Errorf("%w: no interface of this machine has this address: name one that has, or 0.0.0.0 for all; the address of a router goes into p2p.advertise", syscall.EADDRNOTAVAIL)
}

// freeAddr finds the next free port after p.
func freeAddr(host string, p int) string {
	for p++; p < 1<<16; p++ {
		l, err := bind("tcp", net.JoinHostPort(host, strconv.Itoa(p)))
		if err == nil {
			_ = l.Close()
			break
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(p))
}

// firstTCP is the place of the first TCP listener of the API, -1 without one.
func (n *Node) firstTCP() int {
	return slices.IndexFunc(n.listeners, func(l Listener) bool { return !l.Admin })
}

// apiPort is the port of that listener, 0 without one.
func (n *Node) apiPort() int {
	i := n.firstTCP()
	if i < 0 {
		return 0
	}
	a, ok := n.listeners[i].Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return a.Port
}

// Listeners are where the API is served: HTTP connections only.
func (n *Node) Listeners() []Listener { return n.listeners }

// IPC is the local socket of JSON-RPC, nil = none: one JSON value a message, and
// who may open it is admin.
func (n *Node) IPC() net.Listener { return n.ipc }

// Config is the configuration that the node runs with.
func (n *Node) Config() config.Config { return n.cfg }

// dirMeta is meta.json of a data directory.
type dirMeta struct {
	Schema    int    `json:"schema"`
	WrittenBy string `json:"written_by"`
	Network   string `json:"network"`
	ChainID   string `json:"chain_id"`
}

// schema of the data directory that this version writes.
const schema = 1

// openDataDir makes the directory, or checks that it is ours to use.
func openDataDir(dir, network string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &StartError{104, fmt.Errorf("data directory %s cannot be made: %w: choose another --data-dir", dir, err)}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return &StartError{104, fmt.Errorf("data directory: %w", err)}
	}
	if !ownedByUs(info) {
		return &StartError{104, fmt.Errorf("data directory %s belongs to another user: chown it to uid %d, or start as its owner", dir, os.Geteuid())}
	}
	if half := brokenOff(dir); len(half) > 0 {
		return &StartError{104, fmt.Errorf("data directory %s holds %s: a restore into it was broken off; restore again: parley backup restore FILE --data-dir %s", dir, strings.Join(half, ", "), dir)}
	}
	if err := checkMeta(dir, network); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 { // it is ours, or empty
		if err := os.Chmod(dir, 0o700); err != nil {
			return &StartError{104, fmt.Errorf("data directory %s has mode %#o and may be read by others: chmod 700 %s", dir, mode, dir)}
		}
	}
	return nil
}

func checkMeta(dir, network string) error {
	path := filepath.Join(dir, "meta.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkForeign(dir)
	}
	if err != nil {
		return &StartError{104, err}
	}
	var m dirMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return &StartError{104, fmt.Errorf("%s is damaged (%w): restore it from a backup, or move the directory away", path, err)}
	}
	if m.Schema > schema {
		return &StartError{104, fmt.Errorf("data directory %s has schema %d, written by parley %s; this binary knows %d: upgrade parley", dir, m.Schema, m.WrittenBy, schema)}
	}
	if m.Network != network {
		return &StartError{104, fmt.Errorf("data directory %s holds a %s node, this one is %s: choose another --data-dir", dir, m.Network, network)}
	}
	return nil
}

// checkForeign refuses to move into a directory that is somebody else's.
func checkForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &StartError{104, err}
	}
	for _, e := range entries {
		switch e.Name() {
		case "node.key", "swarm.key", "jwt.hex", "parley.sock", "parley.ipc", "genesis.json", "parley.toml", "lost+found", "ledger", "wal", "static-peers.json", "dht.json",
			"history.db", "history.db-wal", "history.db-shm", "history.db.broken",
			"bans.db", "bans.db-wal", "bans.db-shm": // a start that failed leaves these
		default:
			if !strings.HasSuffix(e.Name(), ".log") && !strings.HasSuffix(e.Name(), ".tmp") {
				return &StartError{104, fmt.Errorf("data directory %s is not parley's: it holds %s and no meta.json; choose an empty directory with --data-dir", dir, e.Name())}
			}
		}
	}
	return nil
}

// writeMeta records what the directory holds, by temporary file and rename.
func (n *Node) writeMeta() error {
	b, err := json.Marshal(dirMeta{Schema: schema, WrittenBy: n.Version().Version, Network: n.cfg.Network, ChainID: n.network.Status().ChainID})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(n.cfg.DataDir, "meta.json"), b)
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
