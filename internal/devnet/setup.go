package devnet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
)

const genesisFile = "genesis.json"

var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func checkName(name string) error {
	if !nodeName.MatchString(name) {
		return fmt.Errorf("node name %q: want 1 to 32 of a-z, 0-9 and -, the first not -", name)
	}
	return nil
}

// establish makes the first state of a devnet: keys of all nodes, and one genesis
// with all of them as validators.
func establish(o Options) (*Net, error) {
	if err := checkEmpty(o.Dir); err != nil {
		return nil, err
	}
	s := &State{Version: stateVersion, Stopped: true, Bind: or(o.Bind, DefaultBind)}
	base := or(o.BasePort, DefaultBasePort)
	for i := range or(o.Nodes, DefaultNodes) {
		s.Nodes = append(s.Nodes, Node{Name: fmt.Sprintf("node%d", i+1), Role: RoleValidator, APIPort: base + i})
	}
	if err := s.checkPorts(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("devnet directory: %w", err)
	}
	dir, err := resolve(o.Dir)
	if err != nil {
		return nil, err
	}
	n := newNet(dir, o.Binary)
	unlock, err := n.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.found(s); err != nil {
		return nil, err
	}
	return n, n.save(s)
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// checkEmpty refuses a directory that holds something else. What an
// interrupted start of ours left is made anew.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("devnet directory: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); name != genesisFile && name != "devnet.lock" && !numbered.MatchString(name) && filepath.Ext(name) != ".tmp" {
			return fmt.Errorf("directory %s is not a devnet's: it holds %s and no %s; name an empty one with --dir", dir, name, stateFile)
		}
	}
	return nil
}

// found writes the keys and the genesis.
func (n *Net) found(s *State) error {
	var validators []consortium.Validator
	var admins []consortium.PublicKey
	for i := range s.Nodes {
		node := &s.Nodes[i]
		key, err := n.loadOrCreateKey(node.Name)
		if err != nil {
			return err
		}
		pub := consortium.PublicKeyOf(key)
		if node.PeerID, err = pub.PeerID(); err != nil {
			return err
		}
		host, _, err := net.SplitHostPort(s.API(*node))
		if err != nil {
			return fmt.Errorf("address of %s: %w", node.Name, err)
		}
		family := "ip4"
		if net.ParseIP(host).To4() == nil {
			family = "ip6"
		}
		validators = append(validators, consortium.Validator{Key: pub, Name: node.Name,
			Addresses: []string{fmt.Sprintf("/%s/%s/tcp/%d/p2p/%s", family, host, node.APIPort, node.PeerID)}})
		admins = append(admins, pub)
	}
	g, err := consortium.NewGenesis("", validators, admins, consortium.DefaultParams(), time.Now())
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fmt.Errorf("write genesis: %w", err)
	}
	return writeFile(filepath.Join(n.dir, genesisFile), append(b, '\n'))
}

// loadOrCreateKey makes the identity of a node, PKCS#8 as the node reads it.
func (n *Net) loadOrCreateKey(name string) (ed25519.PrivateKey, error) {
	if err := os.MkdirAll(n.NodeDir(name), 0o700); err != nil {
		return nil, fmt.Errorf("node directory: %w", err)
	}
	path := filepath.Join(n.NodeDir(name), config.Default().Node.KeyFile)
	b, err := os.ReadFile(path)
	if err == nil {
		return parseKey(path, b)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func parseKey(path string, b []byte) (ed25519.PrivateKey, error) {
	if block, _ := pem.Decode(b); block != nil {
		if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := parsed.(ed25519.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("read key %s: it is no Ed25519 key: move the directory away and start anew", path)
}

// writeConfig writes the node's parley.toml: all that it is told.
func (n *Net) writeConfig(s *State, node Node) error {
	ops := ""
	if node.OpsPort != 0 {
		ops = net.JoinHostPort(s.Bind, strconv.Itoa(node.OpsPort))
	}
	c := map[string]any{
		"profile":  config.ProfileDevnet,
		"data_dir": n.NodeDir(node.Name),
		"node":     map[string]any{"name": node.Name},
		"log":      map[string]any{"format": "text"},
		"ops":      map[string]any{"listen": ops},
		"api":      map[string]any{"listen": []string{net.JoinHostPort(s.Bind, strconv.Itoa(node.APIPort))}},
		"p2p":      map[string]any{"listen": []string{s.Bind}, "static_peers": n.peers(s, node)},
	}
	if node.Role == RoleValidator {
		c["consortium"] = map[string]any{"genesis_file": filepath.Join(n.dir, genesisFile)}
	}
	b, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write config of %s: %w", node.Name, err)
	}
	const head = "# Written anew by parley devnet at each start of this node.\n"
	return writeFile(n.configPath(node.Name), append([]byte(head), b...))
}
