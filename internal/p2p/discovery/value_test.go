package discovery

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/internal/wire"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestSelect(t *testing.T) {
	key := newKey(t)
	v := validator{&kad{net: testNet}}
	at := Key("note", idOf(t, key))
	seal := func(seq uint64, issued time.Time, data string) []byte {
		return sealAs(t, testNet, key, "note", seq, issued, []byte(data))
	}
	now := time.Now()
	one, two, twin := seal(1, now, "a"), seal(2, now, "a"), seal(2, now, "b")
	old := seal(9, now.Add(-50*time.Hour), "a")
	for _, tt := range []struct {
		in   [][]byte
		want int
	}{
		{[][]byte{one, two}, 1}, {[][]byte{two, one}, 0}, {[][]byte{old, one}, 1}, {[][]byte{[]byte("junk"), one, two}, 2},
	} {
		if i, err := v.Select(at, tt.in); err != nil || i != tt.want {
			t.Errorf("chose %d, %v; want %d", i, err, tt.want)
		}
	}
	i, err1 := v.Select(at, [][]byte{two, twin})
	j, err2 := v.Select(at, [][]byte{twin, two})
	if err1 != nil || err2 != nil || i == j {
		t.Error("of two values with one sequence the order decides")
	}
	if _, err := v.Select(at, [][]byte{old, []byte("junk")}); err == nil {
		t.Error("one of two bad values was chosen")
	}
}

func TestLargestValueFits(t *testing.T) {
	key := newKey(t)
	k := &kad{net: testNet}
	kind := strings.Repeat("k", wire.MaxDHTKind)
	b := sealAs(t, testNet, key, kind, 1<<63, time.Now(), make([]byte, wire.MaxDHTData))
	if len(b) > wire.MaxDHTValue {
		t.Fatalf("%d bytes, limit %d", len(b), wire.MaxDHTValue)
	}
	if v, err := k.open(Key(kind, idOf(t, key)), b); err != nil || len(v.Data) != wire.MaxDHTData {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	id := idOf(t, newKey(t))
	if kind, author, err := ParseKey(Key("note_1-x", id)); err != nil || kind != "note_1-x" || author != id {
		t.Errorf("%s %s %v", kind, author, err)
	}
	for _, key := range []string{
		"", "/", "/parley", "/parley/note", "/parley/note/x", "parley/note/" + id.String(), "/ipns/note/" + id.String(), "/parley/No/" + id.String(),
		"/parley/" + strings.Repeat("k", 33) + "/" + id.String(), Key("note", id) + "/", "/parley//" + id.String(),
	} {
		if _, _, err := ParseKey(key); err == nil {
			t.Errorf("%q is taken", key)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := newKey(f)
	k := &kad{net: testNet}
	at := Key("note", idOf(f, key))
	good := sealAs(f, testNet, key, "note", 1, time.Now(), []byte("x"))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := k.open(at, b); err == nil && (v.Author != idOf(t, key) || string(v.Data) != "x") {
			t.Errorf("a value that nobody signed: %+v", v)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(Key("note", idOf(f, newKey(f))))
	f.Add("/parley/x/12D3KooW")
	f.Fuzz(func(t *testing.T, key string) {
		if kind, author, err := ParseKey(key); err == nil && Key(kind, author) != key {
			t.Errorf("%q has two forms", key)
		}
	})
}
