package devnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	stateFile    = "devnet.json"
	stateVersion = 1
	maxStateFile = 1 << 20 // bytes
)

// State reads devnet.json.
func (n *Net) State() (*State, error) {
	path := filepath.Join(n.dir, stateFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read devnet: %w", err)
	}
	if info.Size() > maxStateFile {
		return nil, fmt.Errorf("read %s: %d bytes are no devnet's state", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read devnet: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w: the file is damaged, move the directory away and start anew", path, err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &s, nil
}

// check looks at what other code relies on: a name is a part of a path.
func (s *State) check() error {
	if s.Version != stateVersion {
		return fmt.Errorf("version %d is unknown: this parley knows %d", s.Version, stateVersion)
	}
	if len(s.Nodes) == 0 || s.Nodes[0].Role != RoleValidator {
		return errors.New("the first node is no validator: the file is damaged")
	}
	for _, node := range s.Nodes {
		if err := checkName(node.Name); err != nil {
			return err
		}
	}
	return nil
}

// update changes devnet.json. Only one process at a time is inside; a change
// whose f fails is dropped.
func (n *Net) update(f func(*State) error) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := n.State()
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		return err
	}
	return n.save(s)
}

func (n *Net) lock() (unlock func(), err error) {
	path := filepath.Join(n.dir, "devnet.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock devnet: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock goes with the file
}

func (n *Net) save(s *State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write devnet: %w", err)
	}
	return writeFile(filepath.Join(n.dir, stateFile), append(b, '\n'))
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// Purge deletes the devnet's files; the directory too when nothing else is in
// it. No node may run.
func (n *Net) Purge() error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := n.State()
	if err != nil {
		return err
	}
	if up := n.running(s); len(up) > 0 {
		return fmt.Errorf("purge %s: nodes are running (%s): stop them with parley devnet down", n.dir, pids(up))
	}
	names := []string{}
	for _, node := range s.Nodes {
		names = append(names, node.Name)
	}
	for _, name := range append(names, genesisFile, stateFile, "devnet.lock") {
		if err := os.RemoveAll(filepath.Join(n.dir, name)); err != nil {
			return fmt.Errorf("purge devnet: %w", err)
		}
	}
	if err := os.Remove(n.dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("purge devnet: %w", err)
	}
	return nil
}
