package dialer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// saved is static-peers.json: what outlives a restart.
type saved struct {
	Pins    map[string]peer.ID `json:"pins"`              // item → the id that was learned for it
	Added   []string           `json:"added,omitempty"`   // items of run time
	Trusted []peer.ID          `json:"trusted,omitempty"` // at run time
}

func (s saved) clone() saved {
	return saved{Pins: maps.Clone(s.Pins), Added: slices.Clone(s.Added), Trusted: slices.Clone(s.Trusted)}
}

// load reads the file at path; a missing one is an empty one.
func load(path string) (saved, error) {
	s := saved{Pins: map[string]peer.ID{}}
	if path == "" {
		return s, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read static peers: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read static peers %s: %w; delete the file to learn the ids anew, and add again the peers that were added or trusted at run time", path, err)
	}
	if s.Pins == nil {
		s.Pins = map[string]peer.ID{}
	}
	return s, nil
}

// write replaces the file at path, whole or not at all.
func (s saved) write(path string) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode static peers: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // 0600
	if err != nil {
		return fmt.Errorf("save static peers: %w", err)
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("save static peers %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
