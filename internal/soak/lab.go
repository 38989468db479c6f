package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/devnet"
)

const (
	apiPort = 8080
	p2pPort = 9906

	roomyDisk = "4g" // of the small disk when it is not full; memory is taken by what is stored only
)

// lab is a chain of real processes, in a network of its own.
type lab struct {
	dir     string
	network *network
	nodes   []*node
	genesis chain.Hash
	small   *node // has a small disk, nil = none
}

// validators of the set that signs now.
func (l *lab) validators() []*node {
	var v []*node
	for _, n := range l.nodes {
		if n.votes() {
			v = append(v, n)
		}
	}
	return v
}

// followers are those that are no validators now, admins the validators of the
// genesis, whatever they are now.
func (l *lab) followers() []*node {
	return slices.DeleteFunc(slices.Clone(l.nodes), (*node).votes)
}

func (l *lab) admins() []*node {
	return slices.DeleteFunc(slices.Clone(l.nodes), func(n *node) bool { return !n.admin })
}

// spare is how many validators may be away while blocks are made.
func (l *lab) spare() int {
	var set []consortium.Validator
	for _, n := range l.validators() {
		set = append(set, consortium.Validator{ID: uint64(n.index), Key: n.key})
	}
	return consortium.NewValidatorSet(set).Crashes()
}

// newLab makes keys, genesis, configurations and the network in dir, and
// starts nothing. The caller MUST close it.
func newLab(ctx context.Context, dir, binary string, validators, followers int) (*lab, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the lab: %w", err)
	}
	w, err := newNetwork(ctx, validators+followers)
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, network: w}
	for i := 1; i <= validators+followers; i++ {
		name := fmt.Sprintf("n%d", i)
		n := &node{index: i, name: name, validator: i <= validators, admin: i <= validators, space: w.space(i), binary: binary,
			dir: filepath.Join(dir, name), config: filepath.Join(dir, name+".toml"), log: filepath.Join(dir, name+".log")}
		n.api = devnet.NewClient(n.dir)
		l.nodes = append(l.nodes, n)
	}
	if err := l.found(); err != nil {
		return nil, errors.Join(err, l.close(ctx, false))
	}
	return l, nil
}

// found writes keys, genesis and configurations.
func (l *lab) found() error {
	var set []consortium.Validator
	var admins []consortium.PublicKey
	for _, n := range l.nodes {
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		pub, err := n.makeKey()
		if err != nil {
			return err
		}
		id, err := pub.PeerID()
		if err != nil {
			return err
		}
		n.key = pub
		if n.validator {
			set = append(set, consortium.Validator{Key: pub, Name: n.name,
				Addresses: []string{fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", address(n.index), p2pPort, id)}})
			admins = append(admins, pub)
		}
	}
	g, err := consortium.NewGenesis("", set, admins, consortium.DefaultParams(), time.Now())
	if err != nil {
		return err
	}
	l.genesis = g.Hash()
	b, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fmt.Errorf("write genesis: %w", err)
	}
	err = os.WriteFile(l.genesisFile(), b, 0o600)
	for _, n := range l.nodes {
		err = errors.Join(err, l.configure(n))
	}
	return err
}

func (l *lab) genesisFile() string { return filepath.Join(l.dir, "genesis.json") }

// keyFile is the name of a node's key in its data directory.
func keyFile() string { return config.Default().Node.KeyFile }

func (n *node) makeKey() (consortium.PublicKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return consortium.PublicKey{}, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return consortium.PublicKey{}, fmt.Errorf("make key: %w", err)
	}
	file := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return consortium.PublicKeyOf(key), os.WriteFile(filepath.Join(n.dir, keyFile()), file, 0o600)
}

// configure writes the node's parley.toml. A follower learns the chain from
// two validators.
func (l *lab) configure(n *node) error {
	var peers []string
	for _, o := range l.validators() {
		if o != n && (n.validator || len(peers) < 2) {
			peers = append(peers, fmt.Sprintf("%s:%d", address(o.index), apiPort))
		}
	}
	c := map[string]any{
		"data_dir": n.dir,
		"node":     map[string]any{"name": n.name},
		"log":      map[string]any{"format": "text"},
		"ops":      map[string]any{"listen": ""},
		"api":      map[string]any{"listen": []string{fmt.Sprintf("%s:%d", address(n.index), apiPort)}},
		"p2p":      map[string]any{"listen": []string{address(n.index)}, "port": p2pPort, "static_peers": peers},
	}
	chain := map[string]any{"genesis_hash": l.genesis.String()}
	if n.validator {
		chain["genesis_file"] = l.genesisFile()
		chain["sole_validator"] = len(l.validators()) == 1
	}
	c["consortium"] = chain
	b, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("configuration of %s: %w", n.name, err)
	}
	return os.WriteFile(n.config, b, 0o600)
}

// giveSmallDisk puts the data of a node that does not run on a disk of its
// own, which can be made full.
func (l *lab) giveSmallDisk(n *node) error {
	path := filepath.Join(n.dir, keyFile())
	key, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("move key: %w", err)
	}
	if err := syscall.Mount("tmpfs", n.dir, "tmpfs", 0, "mode=0700,size="+roomyDisk); err != nil {
		return fmt.Errorf("mount a disk at %s: %w", n.dir, err)
	}
	l.small = n
	return os.WriteFile(path, key, 0o600)
}

// fill makes the small disk full, to the last page.
func (l *lab) fill() error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(l.small.dir, &s); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", l.small.name, err)
	}
	used := (s.Blocks - s.Bfree) * uint64(s.Bsize)
	for spare := uint64(0); ; spare += 1 << 20 { // the node writes meanwhile
		err := l.resize(fmt.Sprintf("%dk", (used+spare)>>10+4))
		if err == nil || spare > 64<<20 {
			return err
		}
	}
}

// empty ends what fill did.
func (l *lab) empty() error { return l.resize(roomyDisk) }

func (l *lab) resize(size string) error {
	if err := syscall.Mount("", l.small.dir, "", syscall.MS_REMOUNT, "size="+size); err != nil {
		return fmt.Errorf("resize the disk of %s to %s: %w", l.small.name, size, err)
	}
	return nil
}

// lock makes the small disk read-only, or writable again. No node may have it
// open.
func (l *lab) lock(yes bool) error {
	flags := uintptr(syscall.MS_REMOUNT)
	if yes {
		flags |= syscall.MS_RDONLY
	}
	if err := syscall.Mount("", l.small.dir, "", flags, ""); err != nil {
		return fmt.Errorf("make the disk of %s read-only: %t: %w", l.small.name, yes, err)
	}
	return nil
}

// close ends all processes and takes the network away. With keep, what the
// nodes stored stays: data on a small disk is moved to where it was mounted.
func (l *lab) close(ctx context.Context, keep bool) error {
	for _, n := range l.nodes {
		n.kill()
		n.api.HTTP.CloseIdleConnections()
	}
	err := l.network.remove(ctx)
	if l.small != nil {
		err = errors.Join(err, l.empty(), unmount(l.small.dir, keep))
	}
	if !keep {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}

func unmount(dir string, keep bool) (err error) {
	kept := dir + ".kept"
	if keep {
		_ = os.Remove(parley.SocketPath(dir)) // it is no file, and may not be there
		err = os.CopyFS(kept, os.DirFS(dir))
	}
	if err = errors.Join(err, syscall.Unmount(dir, 0)); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if !keep {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil { // the key lies below the mount, too
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return os.Rename(kept, dir)
}

// unmountAll takes away the small disks that a killed harness left below dir.
func unmountAll(dir string) error {
	b, err := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[2] == "tmpfs" && strings.HasPrefix(f[1], dir+"/") {
			err = errors.Join(err, syscall.Unmount(f[1], syscall.MNT_DETACH))
		}
	}
	return err
}
