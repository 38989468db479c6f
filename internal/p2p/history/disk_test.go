package history

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyDisk is what a crash leaves: the files as they are now.
func copyDisk(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "history.db")
	for _, end := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + end)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+end, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	l := open(t, Config{File: path})
	p := newID(t)
	for i := range 50 {
		l.bus.Publish(ready(p), gone(p, "us", fmt.Sprint(i), 0, ""))
		l.take()
		l.flush(t.Context(), time.Now())
	}
	crashed := copyDisk(t, path)
	l.close()
	after := open(t, Config{File: crashed})
	if n := len(after.page(p, 0, 1000)); n != 100 {
		t.Errorf("%d of 100 after a crash", n)
	}
	after.close()

	// A log that lost its end loses the last transactions, and nothing else.
	for _, keep := range []float64{0.9, 0.5, 0.1, 0} {
		l = open(t, Config{File: path})
		l.bus.Publish(ready(p))
		for range 20 {
			l.bus.Publish(gone(p, "us", "x", 0, ""), ready(p))
			l.take()
			l.flush(t.Context(), time.Now())
		}
		torn := copyDisk(t, path)
		l.close()
		info, err := os.Stat(torn + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(torn+"-wal", int64(float64(info.Size())*keep)); err != nil {
			t.Fatal(err)
		}
		after = open(t, Config{File: torn})
		if n := len(after.page(p, 0, 1000)); n < 100 || strings.Contains(after.log.String(), "broken") {
			t.Errorf("with %v of the log: %d entries, %s", keep, n, after.log)
		}
		after.close()
	}
}

// A copy of a file that is in use is whole, and opens as a history of its own.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{File: filepath.Join(dir, "history.db")})
	defer l.close()
	p, to := newID(t), filepath.Join(dir, "copy.db")
	l.bus.Publish(ready(p), gone(p, "us", "x", 0, ""))
	l.take()
	l.flush(t.Context(), time.Now())
	if err := Copy(t.Context(), l.cfg.File, to); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), l.cfg.File, to); err == nil {
		t.Error("a file was overwritten")
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	c := open(t, Config{File: to})
	if got := words(c.page("", 0, 10)); got != "disconnected x; connected" || c.log.Len() > 0 {
		t.Errorf("the copy has %s: %s", got, c.log)
	}
	c.close()
	for name, from := range map[string]string{"none": filepath.Join(dir, "none.db"), "text": filepath.Join(dir, "text.db")} {
		if name == "text" {
			if err := os.WriteFile(from, bytes.Repeat([]byte("no database "), 100), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Copy(t.Context(), from, filepath.Join(dir, name+".copy")); err == nil {
			t.Errorf("%s was copied", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "none.db")); err == nil {
			t.Error("copying made its source")
		}
	}
}

// A broken file is set aside and never keeps a node from starting.
func TestBrokenFile(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.db")
	l := open(t, Config{File: whole})
	p := newID(t)
	l.bus.Publish(ready(p))
	for range 2000 {
		l.bus.Publish(gone(p, "us", strings.Repeat("x", 200), 0, ""), ready(p))
	}
	l.close()
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(good)
	for i := 8192; i < len(damaged); i += 4096 {
		copy(damaged[i:], "damage")
	}
	for name, b := range map[string][]byte{
		"text": []byte("this is no database, and longer than a header of one, which is a hundred bytes: so it is told from an empty file"),
		"half": good[:len(good)/2], "damaged": damaged, "odd": good[:len(good)-1000],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.db")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, Config{File: path})
			l.bus.Publish(ready(p))
			l.take()
			l.flush(t.Context(), time.Now())
			if l.waits() != 0 || len(l.page(p, 0, 1)) != 1 || !strings.Contains(l.log.String(), "set aside") {
				t.Errorf("%d wait: %s", l.waits(), l.log)
			}
			l.close()
			if aside, err := os.ReadFile(path + ".broken"); err != nil || !bytes.Equal(aside, b) {
				t.Errorf("the broken file is not kept: %v", err)
			}
			l = open(t, Config{File: path})
			if len(l.page(p, 0, 10)) != 1 || l.log.Len() > 0 {
				t.Errorf("the new one does not hold: %s", l.log)
			}
			l.close()
		})
	}
	// One that breaks while it is open is given up at the next write.
	l = open(t, Config{File: whole})
	if err := os.WriteFile(whole, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(whole+"-wal", 0); err != nil {
		t.Fatal(err)
	}
	l.bus.Publish(ready(p), gone(p, "us", "later", 0, ""))
	l.take()
	now := time.Now()
	for range 5 {
		l.flush(t.Context(), now)
		now = now.Add(2 * openEvery)
	}
	if got := l.page(p, 0, 1); l.waits() != 0 || words(got) != "disconnected later" {
		t.Errorf("%d wait, newest is %s: %s", l.waits(), words(got), l.log)
	}
	l.close()
}

// A full disk keeps what fits into memory, shows it, and writes it later.
func TestFullDisk(t *testing.T) {
	l := open(t, Config{File: filepath.Join(t.TempDir(), "history.db")})
	defer l.close()
	db := l.store.(*file).db
	db.SetMaxOpenConns(1) // the limit is the connection's
	limit := func(pages int) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // no more than it has
	p := newID(t)
	l.bus.Publish(ready(p))
	now := time.Now()
	for i := range 2 * maxPending / 100 {
		for range 50 {
			l.bus.Publish(gone(p, "us", strings.Repeat("x", 100), 0, ""), ready(p))
		}
		l.take()
		l.flush(t.Context(), now.Add(time.Duration(i)*time.Second))
	}
	if n := l.waits(); n == 0 || n > maxPending {
		t.Fatalf("%d wait on a full disk", n)
	}
	if l.counter("parley_history_dropped_total full") == 0 || strings.Count(l.log.String(), "history not written") != 1 {
		t.Errorf("not counted, or not told once: %s", l.log)
	}
	if list := l.page(p, 0, maxPending); len(list) != maxPending || list[0].Event != Connected {
		t.Errorf("%d are shown", len(list))
	}
	limit(1 << 20)
	l.flush(t.Context(), now)
	if n := l.waits(); n != 0 {
		t.Errorf("%d wait though there is room", n)
	}
	if list := l.page(p, 0, maxPending); len(list) != maxPending {
		t.Errorf("%d are shown afterwards", len(list))
	}
}

// Where there is no file at first it is opened later, with what came before.
func TestOpenLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "history.db")
	l := open(t, Config{File: path})
	p := newID(t)
	l.bus.Publish(ready(p))
	l.take()
	now := time.Now()
	l.flush(t.Context(), now)
	if len(l.page("", 0, 10)) != 1 || l.waits() != 1 || !strings.Contains(l.log.String(), "in memory for now") {
		t.Errorf("%d wait: %s", l.waits(), l.log)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l.flush(t.Context(), now.Add(2*openEvery))
	if l.waits() != 0 || len(l.page("", 0, 10)) != 1 {
		t.Errorf("%d wait though there is a directory: %s", l.waits(), l.log)
	}
	l.close()
}
