package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// writeLog makes a log of five entries, as after a clean stop, and returns it
// with the path of its last file.
func writeLog(t *testing.T) (dir, last string) {
	t.Helper()
	dir = t.TempDir()
	w, entries, err := openFiles(dir)
	if err != nil || len(entries) != 0 {
		t.Fatalf("new log: %d entries, %v", len(entries), err)
	}
	for i := range 5 {
		if err := w.Append(entry(i), i == 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := walNames(dir)
	if err != nil || len(names) != 1 {
		t.Fatalf("log files %v, %v", names, err)
	}
	return dir, filepath.Join(dir, names[0])
}

func entry(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 50+i) }

func TestWALRepair(t *testing.T) {
	const recordSize = 64 // about: header, protobuf, padding
	edit := func(f func(b []byte) []byte) func(*testing.T, string, string) {
		return func(t *testing.T, _, last string) {
			b, err := os.ReadFile(last)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(last, f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := func(content []byte) func(*testing.T, string, string) {
		return func(t *testing.T, dir, _ string) {
			if err := os.WriteFile(filepath.Join(dir, "0000000000000002.wal"), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		harm    func(t *testing.T, dir, last string)
		entries int
		damaged bool
	}{
		{"whole", func(*testing.T, string, string) {}, 5, false},
		{"zero tail", edit(func(b []byte) []byte { return append(b, make([]byte, 4096)...) }), 5, false},
		{"header of a next entry", edit(func(b []byte) []byte { return append(b, 40, 0, 0, 0) }), 5, false},
		{"start of a next entry", edit(func(b []byte) []byte { return append(b, 40, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9) }), 5, false},
		{"bit in the last entry", edit(func(b []byte) []byte { b[len(b)-10] ^= 4; return b }), 4, false},
		{"bit in the third entry", edit(func(b []byte) []byte { b[anchorSize+2*recordSize+20] ^= 4; return b }), 0, true},
		{"bit in the length of the first entry", edit(func(b []byte) []byte { b[anchorSize+2] ^= 4; return b }), 0, true},
		{"anchor gone", edit(func(b []byte) []byte { copy(b, make([]byte, anchorSize)); return b }), 0, true},
		{"all zero", edit(func(b []byte) []byte { return make([]byte, len(b)) }), 0, true},
		{"next file empty", next(nil), 5, false},
		{"next file with half an anchor", next([]byte{2, 0, 0, 0, 9, 9}), 5, false},
		{"first file cut off in its anchor", edit(func(b []byte) []byte { return b[:9] }), 0, false},
		{"earlier file damaged", func(t *testing.T, dir, last string) {
			w, _, err := openFiles(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Append(entry(9), false), w.Close()); err != nil {
				t.Fatal(err)
			}
			edit(func(b []byte) []byte { b[len(b)-10] ^= 4; return b })(t, dir, last)
		}, 0, true},
	}
	for i := range 20 {
		cut := i + 1
		tests = append(tests, struct {
			name    string
			harm    func(t *testing.T, dir, last string)
			entries int
			damaged bool
		}{fmt.Sprint("cut by ", cut), edit(func(b []byte) []byte { return b[:len(b)-cut] }), 4, false})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, last := writeLog(t)
			tt.harm(t, dir, last)
			w, entries, err := openFiles(dir)
			var damaged *damagedError
			if errors.As(err, &damaged) != tt.damaged || err != nil && !tt.damaged {
				t.Fatalf("open: %v, want damage: %v", err, tt.damaged)
			}
			if tt.damaged {
				return
			}
			if len(entries) != tt.entries {
				t.Errorf("%d entries, want %d", len(entries), tt.entries)
			}
			for i, e := range entries {
				if !bytes.Equal(e, entry(i)) {
					t.Errorf("entry %d is %q", i, e)
				}
			}
			if err := errors.Join(w.Append([]byte("more"), false), w.Close()); err != nil {
				t.Fatal(err)
			}
			w, again, err := openFiles(dir)
			if err != nil || len(again) != tt.entries+1 {
				t.Fatalf("opened again: %d entries, %v", len(again), err)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(append([]byte{2, 0, 0, 0, 1, 0, 173, 222, 8, 2, 0, 0, 0, 0, 0, 0}, 1, 0, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) { inspect(b) })
}

func TestTidyKeepsThreeCopies(t *testing.T) {
	dir := t.TempDir()
	for i := range 6 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%016x.wal.copy", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := tidy(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.copy"))
	if err != nil || len(left) != 3 || filepath.Base(left[0]) != "0000000000000003.wal.copy" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestResume(t *testing.T) {
	saved := func(m *smartbftprotos.SavedMessage) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	proposed := saved(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ProposedRecord{
		ProposedRecord: &smartbftprotos.ProposedRecord{PrePrepare: &smartbftprotos.PrePrepare{Seq: 7}, Prepare: &smartbftprotos.Prepare{Seq: 7}}}})
	commit := saved(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{
		Commit: &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{Seq: 7,
			Signature: &smartbftprotos.Signature{Msg: consortium.VoteMessage(chain.Hash{}, chain.Hash{7}, 7, 1)}}}}}})
	change := saved(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{}}})
	newView := saved(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_NewView{NewView: &smartbftprotos.ViewMetadata{ViewId: 2}}})
	for i, tt := range []struct {
		entries [][]byte
		height  uint64
		want    int
	}{
		{nil, 3, 0},
		{[][]byte{proposed}, 6, 1},
		{[][]byte{proposed}, 7, 0},
		{[][]byte{proposed, newView}, 7, 2},
		{[][]byte{proposed, commit}, 6, 2},
		{[][]byte{proposed, commit}, 7, 2}, // the library sees that it was stored
		{[][]byte{proposed, commit, change, change}, 6, 2},
		{[][]byte{proposed, commit, change}, 7, 3},
		{[][]byte{proposed, change, commit}, 6, 2}, // voted while the view change began
		{[][]byte{proposed, change, commit}, 7, 2},
		{[][]byte{proposed, change, change, commit, change}, 6, 2},
		{[][]byte{proposed, commit, newView, change}, 6, 4}, // the new view settled it
		{[][]byte{proposed, change}, 6, 2},                  // no vote was sent
		{[][]byte{change}, 6, 1},
	} {
		if got, err := resume(chain.Hash{}, tt.entries, tt.height); len(got) != tt.want || err != nil {
			t.Errorf("%d: %d entries at height %d: %d kept, %v, want %d", i, len(tt.entries), tt.height, len(got), err, tt.want)
		}
	}
	if s, err := lastProposal([][]byte{proposed, newView}); s != 7 || err != nil {
		t.Errorf("last proposal %d, %v", s, err)
	}
	if _, err := lastProposal([][]byte{{0xff}}); err == nil {
		t.Error("garbage was read")
	}
	if _, err := resume(chain.Hash{}, [][]byte{{0xff}}, 1); err == nil {
		t.Error("garbage was resumed")
	}
}

// A validator whose log is gone does not vote before later blocks of others, but for a
// sole one that was told to.
func TestQuarantine(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(dir string) error
	}{
		{"missing", os.RemoveAll},
		{"no id", func(dir string) error { return os.Remove(filepath.Join(dir, "id")) }},
		{"foreign", func(dir string) error { return os.WriteFile(filepath.Join(dir, "id"), []byte("other"), 0o600) }},
		{"damaged", func(dir string) error {
			names, err := walNames(dir)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, names[len(names)-1]), make([]byte, 100), 0o600)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tn := newTestNet(t, 3, heartbeats(500*time.Millisecond))
			tn.start()
			tn.await(tn.submit(20))
			third := tn.nodes[2]
			third.stop()
			if err := tt.harm(third.dir); err != nil {
				t.Fatal(err)
			}
			third.start()
			<-third.ended
			if !errors.Is(third.end, ErrQuarantined) {
				t.Fatalf("run: %v, want quarantine", third.end)
			}
			if err := third.engine.Run(t.Context()); !errors.Is(err, ErrQuarantined) {
				t.Fatalf("run again without a block: %v", err)
			}
			tn.nodes[0].until(func() bool { return tn.nodes[0].engine.Leader() != 0 })
			third.net.mu.Lock()
			delete(third.net.live, third.id)
			third.net.mu.Unlock()
			tn.await(tn.submit(1))
			third.net.mu.Lock()
			third.net.live[third.id] = third
			third.net.mu.Unlock()
			third.run()
			tn.await(tn.submit(20))
			tn.stop()
		})
	}
}

func TestQuarantineOfSoleValidator(t *testing.T) {
	tn := newTestNet(t, 1)
	tn.start()
	tn.await(tn.submit(20))
	n := tn.nodes[0]
	n.stop()
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	n.start()
	<-n.ended
	if !errors.Is(n.end, ErrQuarantined) {
		t.Fatalf("run: %v, want quarantine", n.end)
	}
	n.engine.cfg.SoleValidator = true
	n.run()
	tn.await(tn.submit(20))
	tn.stop()
}

// A genesis validator on a new store may have voted before.
func TestQuarantineOfRebuiltNode(t *testing.T) {
	tn := newTestNet(t, 1)
	n := tn.nodes[0]
	if err := n.ledger.SetBorn(5); err != nil {
		t.Fatal(err)
	}
	n.start()
	<-n.ended
	if !errors.Is(n.end, ErrQuarantined) {
		t.Fatalf("run: %v, want quarantine", n.end)
	}
	n.end = nil
	tn.stop()
}

func TestCrashBrake(t *testing.T) {
	tn := newTestNet(t, 1)
	n := tn.nodes[0]
	n.start()
	tn.await(tn.submit(1))
	n.stop()
	crashOnce := func() {
		defer func() {
			if recover() == nil {
				t.Error("die returned")
			}
		}()
		n.engine.die("test")
	}
	for range crashLimit - 1 {
		crashOnce()
	}
	n.start() // still
	tn.await(tn.submit(1))
	n.stop()
	for range crashLimit {
		crashOnce()
	}
	n.start()
	<-n.ended
	if !errors.Is(n.end, ErrQuarantined) {
		t.Fatalf("run after %d crashes at one height: %v", crashLimit, n.end)
	}
	n.engine.forgetCrashes()
	n.run()
	tn.await(tn.submit(1))
	tn.stop()
}

// Consent to vote without the log is for one loss: left on in a set of several,
// it does not cover the next one, until it was taken away and given again.
func TestConsentIsForOneLoss(t *testing.T) {
	tn := newTestNet(t, 4)
	tn.start()
	tn.await(tn.submit(5))
	for _, other := range tn.nodes[:3] {
		other.stop() // no block frees it
	}
	n := tn.nodes[3]
	n.stop()
	lose := func() {
		t.Helper()
		if err := os.RemoveAll(n.dir); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(sole bool) error {
		t.Helper()
		n.engine.cfg.SoleValidator, n.engine.waived = sole, 0
		w, _, err := n.engine.openWAL()
		if err == nil {
			err = w.Close()
		}
		return err
	}
	for i, step := range []struct{ lost, sole, votes bool }{
		{lost: true, sole: false},
		{sole: true, votes: true},  // given for this loss
		{sole: true, votes: true},  // left on
		{lost: true, sole: true},   // the next loss
		{sole: true},               // a restart changes nothing
		{sole: false},              // taken away
		{sole: true, votes: true},  // given again
		{sole: false, votes: true}, // all is well
	} {
		if step.lost {
			lose()
		}
		if err := opens(step.sole); step.votes != (err == nil) || err != nil && !errors.Is(err, ErrQuarantined) {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	tn.stop()
}

// A data directory may have a name that would be a pattern.
func TestWALNamesTakeNoPattern(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[d]a*")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"0000000000000002.wal", "0000000000000001.wal", "id"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, err := walNames(dir)
	if want := []string{"0000000000000001.wal", "0000000000000002.wal"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v; want %v", names, err, want)
	}
}
