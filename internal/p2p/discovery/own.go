package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxKept  = 1 << 20             // bytes of the file; 64 values of 4 KiB and 256 keys are half of it
	keptLife = 30 * 24 * time.Hour // what was told last before that is not told again
)

var errKept = errors.New("the file of what this node publishes cannot be used")

// kept is the file of what was put and provided by hand: it is published again
// after a restart.
type kept struct {
	Net    string      `json:"net"`
	Values []keptValue `json:"values"`
	Keys   []keptKey   `json:"keys"`
}

// keptValue is a value as it was signed last.
type keptValue struct {
	Key      string    `json:"key"`
	Envelope []byte    `json:"envelope"`
	Told     time.Time `json:"told"`
}

// keptKey is a provider key.
type keptKey struct {
	Key  []byte    `json:"key"`
	Told time.Time `json:"told"`
}

// decodeKept reads a file within its bounds; what it holds is not judged yet.
func decodeKept(b []byte) (kept, error) {
	var f kept
	switch err := json.Unmarshal(b, &f); {
	case err != nil:
		return kept{}, fmt.Errorf("%w: %w", errKept, err)
	case len(f.Values) > maxOwn || len(f.Keys) > maxProvided:
		return kept{}, fmt.Errorf("%w: %d values and %d keys, at most %d and %d are kept", errKept, len(f.Values), len(f.Keys), maxOwn, maxProvided)
	}
	return f, nil
}

// resume takes what the file holds. One that cannot be used, or is of another
// network, is set aside.
func (k *kad) resume(now time.Time) {
	path := k.d.cfg.File
	if path == "" {
		return
	}
	f, err := readKept(path)
	if err == nil && f.Net != k.net {
		err = fmt.Errorf("%w: it is of network %q, this one is %q", errKept, f.Net, k.net)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case errors.Is(err, errKept):
		aside := fmt.Sprintf("%s.corrupt-%d", path, now.Unix())
		k.d.log.Warn("own values of the DHT are set aside", "file", aside, "err", errors.Join(err, os.Rename(path, aside)))
		return
	case err != nil:
		k.d.log.Warn("own values of the DHT not read", "file", path, "err", err)
		return
	}
	for _, v := range f.Values {
		if now.Sub(v.Told) >= keptLife {
			continue
		}
		w, err := k.unseal(v.Key, v.Envelope)
		if err == nil && w.Author != k.d.host.ID() {
			err = errors.New("this node is not its author")
		}
		if err != nil {
			k.d.log.Warn("own value of the DHT dropped", "key", v.Key, "err", err)
			continue
		}
		k.own[v.Key] = ownValue{data: w.Data, seq: w.Seq, envelope: v.Envelope, told: v.Told}
	}
	for _, key := range f.Keys {
		if err := checkProviderKey(key.Key); err != nil || now.Sub(key.Told) >= keptLife {
			k.d.log.Info("own provider key of the DHT dropped", "told", key.Told, "err", err)
			continue
		}
		k.keys[string(key.Key)], k.byHand[string(key.Key)] = time.Time{}, key.Told
	}
}

func readKept(path string) (kept, error) {
	r, err := os.Open(path)
	if err != nil {
		return kept{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxKept+1))
	switch {
	case err != nil:
		return kept{}, err
	case len(b) > maxKept:
		return kept{}, fmt.Errorf("%w: it has more than %d bytes", errKept, maxKept)
	}
	return decodeKept(b)
}

// keep writes the file, whole or not at all.
func (k *kad) keep() error {
	path := k.d.cfg.File
	if path == "" {
		return nil
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	f := kept{Net: k.net, Values: []keptValue{}, Keys: []keptKey{}}
	k.mu.Lock()
	for key, v := range k.own {
		f.Values = append(f.Values, keptValue{Key: key, Envelope: v.envelope, Told: v.told.UTC()})
	}
	for key, told := range k.byHand {
		f.Keys = append(f.Keys, keptKey{Key: []byte(key), Told: told.UTC()})
	}
	k.mu.Unlock()
	slices.SortFunc(f.Values, func(a, b keptValue) int { return strings.Compare(a.Key, b.Key) })
	slices.SortFunc(f.Keys, func(a, b keptKey) int { return slices.Compare(a.Key, b.Key) })
	b, err := json.Marshal(f)
	if err == nil {
		err = replaceFile(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep %s over a restart: %w", filepath.Base(path), err)
	}
	return nil
}

func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
