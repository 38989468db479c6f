package addrbook

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
)

// filled is a book of n peers, a tenth of them tried.
func filled(t testing.TB, cfg Config, n int) *Book {
	t.Helper()
	b := opened(t, cfg)
	for i := range n {
		id, addr := fakeID(uint64(i)), tcp(ip4(i%500, i/500+1))
		if b.tell(t, from(i%300, uint64(i)), id, addr) == nil && i%10 == 0 {
			b.Good(id, ma.StringCast(addr))
		}
	}
	return b
}

func names(t testing.TB, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range list {
		all = append(all, f.Name())
	}
	return strings.Join(all, " ")
}

// All comes back: entries, tables, sources, records, times, the salt.
func TestSaveLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "addrbook")
	b := filled(t, Config{Dir: dir, Net: "abcd"}, 3000)
	b.WrongNetwork(fakeID(7))
	b.Failed(fakeID(8), "refused")
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(filepath.Join(dir, bookFile)); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", s.Mode(), err)
	}
	if s, err := os.Stat(dir); err != nil || s.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", s.Mode(), err)
	}
	back := opened(t, Config{Dir: dir, Net: "abcd"})
	var was, is bytes.Buffer
	if err := errors.Join(b.Export(&was), back.Export(&is)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was.String(), is.String()); diff != "" {
		t.Error(diff[:min(len(diff), 2000)])
	}
	if !bytes.Equal(b.salt, back.salt) {
		t.Error("another salt")
	}
	back.check(t)
}

// A file that cannot be used is set aside, told, and the node starts.
func TestSetAside(t *testing.T) {
	good := func(t *testing.T, dir string) []byte {
		t.Helper()
		if err := filled(t, Config{Dir: dir, Net: "abcd"}, 50).save(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, bookFile))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		net   string
		aside string
	}{
		"torn":          {func(b []byte) []byte { return b[:len(b)/2] }, "abcd", "book.corrupt-"},
		"one bit":       {func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, "abcd", "book.corrupt-"},
		"empty":         {func([]byte) []byte { return nil }, "abcd", "book.corrupt-"},
		"of a stranger": {func([]byte) []byte { return bytes.Repeat([]byte("x"), 5000) }, "abcd", "book.corrupt-"},
		"other network": {func(b []byte) []byte { return b }, "ef01", "book.foreign-"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, bookFile), c.spoil(good(t, dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			bus := event.NewBus(64)
			sub := bus.Subscribe()
			defer sub.Close()
			b, err := Open(Config{Dir: dir, Net: c.net}, bus, nil, nil)
			if err != nil || len(b.Entries()) != 0 {
				t.Fatalf("%d entries, %v", len(b.Entries()), err)
			}
			if got := names(t, dir); !strings.HasPrefix(got, c.aside) {
				t.Errorf("files: %s", got)
			}
			if bus.Seq() == 0 || b.Stats().SaveOff != "" {
				t.Error("not told, or saving is off")
			}
			if err := b.save(); err != nil {
				t.Error(err)
			}
		})
	}
	dir := t.TempDir()
	for i := range 6 { // damaged again and again: the directory does not grow
		for _, f := range []string{fmt.Sprintf("book.corrupt-%d", 1e9+i), fmt.Sprintf("anchors.foreign-%d.json", 1e9+i), "book.bin.12345.tmp"} {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	opened(t, Config{Dir: dir})
	if got := names(t, dir); strings.Count(got, "corrupt") != maxAside || strings.Count(got, "foreign") != maxAside || strings.Contains(got, "tmp") {
		t.Errorf("files: %s", got)
	}
}

// A newer version's file is never written over.
func TestNewerVersion(t *testing.T) {
	dir := t.TempDir()
	if err := filled(t, Config{Dir: dir}, 50).save(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, bookFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(data[len(magic):], version+1)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	bus := event.NewBus(64)
	before := bus.Seq()
	b, err := Open(Config{Dir: dir}, bus, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.Stats().SaveOff, "newer") || bus.Seq() != before+1 {
		t.Errorf("not told: %q", b.Stats().SaveOff)
	}
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Error("the newer file was written over")
	}
}

// A joiner learns its network late. What it loaded is kept if it fits.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	b := filled(t, Config{Dir: dir, Net: "abcd"}, 50)
	b.SetAnchors([]peer.ID{fakeID(10)})
	if err := errors.Join(b.save(), b.saveAnchors()); err != nil {
		t.Fatal(err)
	}
	n := len(b.Entries())
	same := opened(t, Config{Dir: dir})
	if err := same.Start("abcd"); err != nil || len(same.Entries()) != n || len(same.Anchors()) != 1 {
		t.Errorf("%d of %d entries, %v", len(same.Entries()), n, err)
	}
	if err := same.Start("abcd"); err != nil {
		t.Error(err)
	}
	if err := same.Start("ef01"); err == nil {
		t.Error("two networks")
	}
	other := opened(t, Config{Dir: dir})
	if err := other.tell(t, from(1, 1), fakeID(1<<30), tcp(ip4(700, 1))); err != nil {
		t.Fatal(err)
	}
	if err := other.Start("ef01"); err != nil || len(other.Entries()) != 1 || len(other.Anchors()) != 0 {
		t.Errorf("%d entries, %v", len(other.Entries()), err)
	}
	if got := names(t, dir); !strings.Contains(got, "book.foreign-") || !strings.Contains(got, "anchors.foreign-") || strings.Contains(got, "bin") {
		t.Errorf("files: %s", got)
	}
	other.check(t)
}

// crashDisk ends the process, so to say, at one step of writing.
type crashDisk struct {
	osDisk
	at   string // create | write | sync | rename | syncdir; "torn" writes half
	down bool
}

var errCrash = errors.New("killed")

func (d *crashDisk) step(name string) error {
	if d.down || d.at == name {
		d.down = true
		return errCrash
	}
	return nil
}

type crashFile struct {
	tempFile
	d *crashDisk
}

func (d *crashDisk) create(dir, pattern string) (tempFile, error) {
	if err := d.step("create"); err != nil {
		return nil, err
	}
	f, err := d.osDisk.create(dir, pattern)
	return crashFile{f, d}, err
}

func (d *crashDisk) rename(from, to string) error {
	return cmpOr(d.step("rename"), func() error { return d.osDisk.rename(from, to) })
}
func (d *crashDisk) remove(path string) error {
	return cmpOr(d.step("remove"), func() error { return d.osDisk.remove(path) })
}
func (d *crashDisk) syncDir(dir string) error {
	return cmpOr(d.step("syncdir"), func() error { return d.osDisk.syncDir(dir) })
}

func (f crashFile) Write(p []byte) (int, error) {
	if f.d.at == "torn" {
		n, _ := f.tempFile.Write(p[:len(p)/2])
		f.d.down = true
		return n, errCrash
	}
	if err := f.d.step("write"); err != nil {
		return 0, err
	}
	return f.tempFile.Write(p)
}

func (f crashFile) Sync() error { return cmpOr(f.d.step("sync"), f.tempFile.Sync) }

func cmpOr(err error, do func() error) error {
	if err != nil {
		return err
	}
	return do()
}

// Killed at any step of writing, the next start has the whole old file or the
// whole new one.
func TestCrashWhileSaving(t *testing.T) {
	for _, at := range []string{"create", "write", "torn", "sync", "rename", "syncdir"} {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			old := filled(t, Config{Dir: dir}, 200)
			old.SetAnchors([]peer.ID{fakeID(10)})
			if err := errors.Join(old.save(), old.saveAnchors()); err != nil {
				t.Fatal(err)
			}
			d := &crashDisk{at: at}
			b, err := open(Config{Dir: dir}, nil, nil, nil, d)
			if err != nil {
				t.Fatal(err)
			}
			before := len(b.Entries())
			if err := b.tell(t, from(2, 2), fakeID(1<<30), tcp(ip4(900, 1))); err != nil {
				t.Fatal(err)
			}
			b.SetAnchors([]peer.ID{fakeID(20)})
			if err := b.save(); !errors.Is(err, errCrash) {
				t.Fatalf("saved: %v", err)
			}
			d.down = false
			if err := b.saveAnchors(); !errors.Is(err, errCrash) {
				t.Fatalf("saved: %v", err)
			}
			back := opened(t, Config{Dir: dir})
			want, anchor := before, fakeID(10)
			if at == "syncdir" { // renamed before
				want, anchor = before+1, fakeID(20)
			}
			if got := len(back.Entries()); got != want || len(back.Anchors()) != 1 || back.Anchors()[0].ID != anchor {
				t.Errorf("%d entries, want %d; anchors %v", got, want, back.Anchors())
			}
			if got := names(t, dir); got != "anchors.json book.bin" {
				t.Errorf("files: %s", got)
			}
		})
	}
}

// Run writes anchors within a second of each change and the book every five
// minutes, and both at its end.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := filled(t, Config{Dir: dir}, 300)
		done := make(chan error)
		ctx, stop := contextWithCancel(t)
		go func() { done <- b.Run(ctx) }()
		for i := range 5 {
			b.SetAnchors([]peer.ID{fakeID(uint64(10 * i))})
			time.Sleep(anchorsWithin)
			synctest.Wait()
			if a := opened(t, Config{Dir: dir}).Anchors(); len(a) != 1 || a[0].ID != fakeID(uint64(10*i)) {
				t.Errorf("anchors a second after change %d: %v", i, a)
			}
		}
		b.SetAnchors(nil)
		time.Sleep(anchorsWithin)
		synctest.Wait()
		if a := opened(t, Config{Dir: dir}).Anchors(); len(a) != 0 {
			t.Errorf("%d anchors of none", len(a))
		}
		if _, err := os.Stat(filepath.Join(dir, bookFile)); err == nil {
			t.Error("the book is written at each change")
		}
		time.Sleep(saveEvery)
		synctest.Wait()
		n := len(opened(t, Config{Dir: dir}).Entries())
		if n != len(b.Entries()) {
			t.Errorf("%d entries after five minutes", n)
		}
		b.Remove(fakeID(10))
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := len(opened(t, Config{Dir: dir}).Entries()); got != n-1 {
			t.Errorf("%d entries after the end, want %d", got, n-1)
		}
	})
}

// A crash soon after the first peers were found does not cost them.
func TestRunSavesAYoungBookSoon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{Dir: dir})
		done := make(chan error)
		ctx, stop := contextWithCancel(t)
		go func() { done <- b.Run(ctx) }()
		for i := range uint64(3) {
			who, at := somebody(t, 70+i), fmt.Sprintf("/ip4/44.%d.1.1/tcp/1", i)
			if err := b.Add(Source{Kind: DHT}, who.sign(at)); err != nil {
				t.Fatal(err)
			}
			b.Good(who.id, ma.StringCast(at))
			time.Sleep(lookEvery)
			synctest.Wait()
			if got := opened(t, Config{Dir: dir}).Stats().Tried; got != int(i+1) {
				t.Errorf("%d proven peers on disk, want %d", got, i+1)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An anchor outlives a book that is damaged.
func TestAnchorsAlone(t *testing.T) {
	dir := t.TempDir()
	b := opened(t, Config{Dir: dir})
	alice := somebody(t, 1)
	addr := tcp(ip4(1, 1))
	if err := b.Add(Source{Kind: Inbound, Peer: alice.id, IP: ip4(1, 1)}, alice.sign(addr, tcp(ip4(2, 2)))); err != nil {
		t.Fatal(err)
	}
	b.Good(alice.id, ma.StringCast(addr))
	was, _ := b.Get(alice.id)
	b.SetAnchors([]peer.ID{alice.id, fakeID(5)})
	if err := b.saveAnchors(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bookFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	back := opened(t, Config{Dir: dir})
	a := back.Anchors()
	if len(a) != 1 || a[0].ID != alice.id || a[0].Table != Tried || !a[0].Anchor || len(a[0].Addrs) != 2 || a[0].Record == nil || !a[0].FirstGood.Equal(was.FirstGood) {
		t.Errorf("anchors %+v, was %+v", a, was)
	}
	back.check(t)
	if !back.Remove(alice.id) || len(back.Anchors()) != 0 || back.Remove(alice.id) {
		t.Error("a removed peer is still an anchor")
	}
	for _, bad := range []string{"{", `{"version":1,"anchors":[{"id":"x"}]}`, `{"version":1,"anchors":[{},{},{},{},{}]}`, `{"version":1,"anchors":[{}]}`} {
		if err := os.WriteFile(filepath.Join(dir, anchorsFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		opened(t, Config{Dir: dir})
		if got := names(t, dir); strings.Contains(got, anchorsFile) {
			t.Errorf("%s: files %s", bad, got)
		}
	}
}

// At most four anchors, one of a group.
func TestSetAnchors(t *testing.T) {
	b := opened(t, Config{})
	var ids []peer.ID
	for i := range 8 {
		id := fakeID(uint64(i))
		b.Good(id, ma.StringCast(tcp(ip4(i/2, i+1))))
		ids = append(ids, id, id)
	}
	b.SetAnchors(append(ids, fakeID(99)))
	var groups []string
	for _, a := range b.Anchors() {
		groups = append(groups, a.Group)
	}
	if got := strings.Join(groups, " "); got != "4:20.0 4:20.1 4:20.2 4:20.3" {
		t.Errorf("anchors of %s", got)
	}
	b.SetAnchors(ids[:1])
	n := 0
	for _, e := range b.Entries() {
		n += b2i(e.Anchor)
	}
	if n != 1 {
		t.Errorf("%d entries say that they are anchors", n)
	}
}

func FuzzBookFile(f *testing.F) {
	b := filled(f, Config{Net: "abcd"}, 2)
	m := image{net: "abcd", salt: make([]byte, saltSize), entries: b.sorted()}
	whole := m.encode()
	body := whole[len(magic)+4 : len(whole)-sha256.Size]
	f.Add(body)
	f.Add(body[:60])
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decodeBody(p)
		if _, err := decode(p); err == nil && len(p) < sha256.Size {
			t.Error("a file without a checksum is taken")
		}
		if err != nil {
			if !errors.Is(err, errCorrupt) {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := decode(m.encode())
		if err != nil {
			if len(p) < maxEntry { // an entry whose addresses are none of ours is not one when written again
				return
			}
			t.Fatal(err)
		}
		if again.net != m.net || len(again.entries) != len(m.entries) {
			t.Errorf("%d entries of %s came back as %d of %s", len(m.entries), m.net, len(again.entries), again.net)
		}
		if m.grown {
			return // the same in wide tables, which take long to check
		}
		b := opened(t, Config{})
		if err := b.take(m.encode()); err != nil {
			t.Fatal(err)
		}
		b.check(t)
	})
}

func FuzzAnchorsFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"network":"abcd","anchors":[{"id":"12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj","addresses":["/ip4/20.1.1.1/tcp/1"],"record":"YQ==","first_good":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decodeAnchors(p)
		if err != nil {
			return
		}
		b := opened(t, Config{})
		b.mu.Lock()
		for _, row := range m.Anchors {
			b.restore(row)
		}
		b.mu.Unlock()
		b.check(t)
	})
}
