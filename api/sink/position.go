package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/parley-p2p/parley/chain"
)

const (
	fileName    = "sinks.json"
	maxFileSize = 1 << 20 // bytes; of 16 sinks it has some 10 KiB
)

// positions is what sinks.json holds.
type positions struct {
	Boot  string               `json:"boot"`
	Clean bool                 `json:"clean"` // written at the end of a start: nothing was published after
	Sinks map[string]*position `json:"sinks"` // by key
}

// position is how far one sink is.
type position struct {
	Seq     uint64 `json:"seq"`    // last event delivered
	Missed  uint64 `json:"missed"` // events published and not delivered
	AtLeast bool   `json:"at_least,omitempty"`
	// The last block all of whose events are delivered; nil where none are wanted,
	// or an older program wrote it.
	Height *uint64    `json:"height,omitempty"`
	Hash   chain.Hash `json:"hash,omitzero"`
}

// position is what to keep of a sink.
func (s *Sinks) position(k *sink) position {
	newest := s.bus.Seq()
	k.mu.Lock()
	defer k.mu.Unlock()
	p := position{Seq: k.done, Missed: k.missed(newest)}
	if k.gap != nil {
		p.Seq, p.AtLeast = k.gap.From-1, k.gap.AtLeast
	}
	if k.chain != nil {
		p.Height, p.Hash = new(k.head.Height), k.head.Hash
	}
	return p
}

// save replaces sinks.json: a crash leaves the old one or the new.
func (s *Sinks) save(clean bool) error {
	sinks := s.kept()
	if len(sinks) == 0 {
		return nil
	}
	all := positions{Boot: s.boot, Clean: clean, Sinks: map[string]*position{}}
	for _, k := range sinks {
		p := s.position(k)
		all.Sinks[k.key()] = &p
	}
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(s.file, append(b, '\n'))
}

func replaceFile(path string, b []byte) error {
	dir, next := filepath.Dir(path), path+".tmp" // one name: a crash leaves one file at most
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close()) // the new name is on the disk too
}

// readPositions returns where each sink was, by key, and whether the start
// before ended cleanly. Without a file there are none.
func readPositions(path string) (map[string]*position, bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, true, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize))
	if err != nil {
		return nil, true, err
	}
	return decodePositions(b)
}

func decodePositions(b []byte) (map[string]*position, bool, error) {
	var all positions
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, true, err
	}
	for key, p := range all.Sinks {
		if p == nil || p.Seq >= 1<<53 || p.Missed >= 1<<53 { // as large as a seq gets
			return nil, true, fmt.Errorf("sink %q has no position", key)
		}
	}
	return all.Sinks, all.Clean, nil
}
