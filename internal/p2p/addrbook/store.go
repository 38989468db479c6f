package addrbook

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parley-p2p/parley/event"
)

const (
	bookFile    = "book.bin"
	anchorsFile = "anchors.json"
	maxAside    = 3 // files set aside that are kept of each kind
)

// disk is what the book does to files: what can go wrong between two steps.
type disk interface {
	create(dir, pattern string) (tempFile, error) // 0600
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
}

type tempFile interface {
	io.WriteCloser
	Sync() error
	Name() string
}

type osDisk struct{}

func (osDisk) create(dir, pattern string) (tempFile, error) { return os.CreateTemp(dir, pattern) }
func (osDisk) rename(from, to string) error                 { return os.Rename(from, to) }
func (osDisk) remove(path string) error                     { return os.Remove(path) }

func (osDisk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write replaces a file of the book's directory, whole or not at all.
func (b *Book) write(name string, data []byte) error { // writing held
	f, err := b.disk.create(b.cfg.Dir, name+".*.tmp")
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = b.disk.rename(f.Name(), filepath.Join(b.cfg.Dir, name))
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", name, errors.Join(err, b.disk.remove(f.Name())))
	}
	if err := b.disk.syncDir(b.cfg.Dir); err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// save writes book.bin.
func (b *Book) save() error {
	if b.cfg.Dir == "" {
		return nil
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	if b.saveOff != "" {
		b.mu.Unlock()
		return nil
	}
	m := image{net: cmp.Or(b.net, b.fileNet), salt: b.salt, asSum: b.cfg.ASMap.checksum(), grown: b.grown}
	m.entries = slices.SortedFunc(maps.Values(b.entries), worth)
	b.unsaved = false
	data := m.encode() // some ms for a full book; it reads the entries
	b.mu.Unlock()
	return b.write(bookFile, data)
}

// load reads what is there. Only a directory that cannot be used is an error.
func (b *Book) load() error {
	if b.cfg.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(b.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("address book: %w", err)
	}
	if err := b.sweep(); err != nil {
		return fmt.Errorf("address book: %w", err)
	}
	data, err := readAtMost(filepath.Join(b.cfg.Dir, bookFile), maxFile)
	if err == nil {
		err = b.take(data)
	}
	if err := b.judge(bookFile, err); err != nil {
		return err
	}
	return b.judge(anchorsFile, b.loadAnchors())
}

// take fills the book from the bytes of its file.
func (b *Book) take(data []byte) error {
	m, err := decode(data)
	if err != nil {
		return err
	}
	if b.net != "" && m.net != "" && m.net != b.net {
		return fmt.Errorf("%w %s, not %s", errOtherNet, m.net, b.net)
	}
	if !bytes.Equal(m.asSum, b.cfg.ASMap.checksum()) {
		b.log.Info("address book grouped anew", "why", "the AS map changed")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fileNet = m.net
	b.salt, b.key = m.salt, newKeyed(m.salt)
	b.grown = m.grown || len(m.entries) >= growAt
	for _, e := range m.entries {
		e.loaded = true
		e.record = slices.Clone(e.record) // else one entry keeps the whole file in memory
		e.addrs = slices.DeleteFunc(e.addrs, func(a address) bool { return a.class != public && !b.cfg.Private })
	}
	b.refill(m.entries, time.Now())
	return nil
}

// judge decides what becomes of a file that could not be read.
func (b *Book) judge(name string, err error) error {
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errNewer):
		b.mu.Lock()
		b.saveOff = err.Error()
		b.mu.Unlock()
		b.found(name, err, "run the newer version, or move the file away; until then nothing that is learned outlives a restart")
		return nil
	case errors.Is(err, errCorrupt), errors.Is(err, errOtherNet):
		return b.setAside(name, err)
	}
	return fmt.Errorf("address book: %w", err)
}

// setAside renames a file that cannot be used, so that somebody can look at it.
func (b *Book) setAside(name string, why error) error {
	stem, ext, _ := strings.Cut(name, ".")
	kind := "corrupt"
	if errors.Is(why, errOtherNet) {
		kind = "foreign"
	}
	to := fmt.Sprintf("%s.%s-%d", stem, kind, time.Now().Unix())
	if ext != "bin" {
		to += "." + ext
	}
	err := b.disk.rename(filepath.Join(b.cfg.Dir, name), filepath.Join(b.cfg.Dir, to))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("address book: set %s aside: %w", name, err)
	}
	b.found(name, why, "it is kept as "+to+"; the node finds its peers anew")
	return errors.Join(b.disk.syncDir(b.cfg.Dir), b.sweep())
}

// found tells the operator.
func (b *Book) found(name string, why error, mend string) {
	path := filepath.Join(b.cfg.Dir, name)
	b.log.Warn("address book cannot be used", "file", path, "err", why)
	if b.bus != nil {
		b.bus.Publish(event.FindingChanged{Code: "PLY-112", Severity: "warn", Title: "address_book",
			Why: fmt.Sprintf("%s: %s; %s", path, why, mend)})
	}
}

// sweep removes what a crash left half written, and all but the newest files
// that were set aside.
func (b *Book) sweep() error {
	list, err := os.ReadDir(b.cfg.Dir) // in the order of names, so in that of times
	if err != nil {
		return err
	}
	aside := map[string][]string{}
	for _, f := range list {
		name := f.Name()
		stem, _, _ := strings.Cut(name, "-")
		switch {
		case strings.HasSuffix(name, ".tmp") && (strings.HasPrefix(name, bookFile+".") || strings.HasPrefix(name, anchorsFile+".")):
			err = errors.Join(err, b.disk.remove(filepath.Join(b.cfg.Dir, name)))
		case strings.HasSuffix(stem, ".corrupt"), strings.HasSuffix(stem, ".foreign"):
			aside[stem] = append(aside[stem], name)
		}
	}
	for _, names := range aside {
		for _, name := range names[:max(0, len(names)-maxAside)] {
			err = errors.Join(err, b.disk.remove(filepath.Join(b.cfg.Dir, name)))
		}
	}
	return err
}

// readAtMost reads a whole file that is not larger than limit.
func readAtMost(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errCorrupt, limit)
	}
	return b, err
}
