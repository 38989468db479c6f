package swarmtest

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/consensus"
)

// backup is what the node's backup holds now.
func (n *Node) backup() []byte {
	t := n.swarm.T
	t.Helper()
	var b bytes.Buffer
	if _, err := n.Backup(t.Context(), &b, false); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// restore gives a node that does not run another disk, with the backup on it,
// and no write-ahead log.
func (n *Node) restore(backup []byte) {
	t := n.swarm.T
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if _, err := parley.RestoreBackup(t.Context(), bytes.NewReader(backup), parley.RestoreOptions{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	n.disk, n.wal = vfs.NewMem(), &consensus.MemoryWAL{}
	if ok, err := vfs.Clone(vfs.Default, n.disk, filepath.Join(dir, "ledger"), n.ledgerDir()); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

func (n *Node) ledgerDir() string { return filepath.Join(n.cfg.DataDir, "ledger") }

// signers are who certified a block, as this node holds it.
func (n *Node) signers(height uint64) []uint64 {
	t := n.swarm.T
	t.Helper()
	b, err := n.Block(strconv.FormatUint(height, 10))
	if err != nil {
		t.Fatal(err)
	}
	return b.Certificate.Signers
}

const waits = "not voting before the others have committed later blocks"

// A validator that comes back from a backup does not vote where it may have
// voted before, however far behind the backup is; a block that the others
// commit frees it.
func TestRestoredValidatorWaits(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c, d := s.Add(), s.Add(), s.Add(), s.Add()
		s.Genesis("story-restored", a, b, c, d)
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("one", `{}`, parley.Committed)
		s.Agree(10*time.Second, a, b, c, d)
		old := d.backup()
		for _, subject := range []string{"two", "three", "four"} {
			a.Submit(subject, `{}`, parley.Committed)
		}
		s.Agree(10*time.Second, a, b, c, d)
		d.Stop()
		c.Stop()
		d.restore(old)
		d.Start()
		if at := d.Node.Status().Head.Height; at >= a.Node.Status().Head.Height {
			t.Fatalf("the backup is at height %d: not behind", at)
		}
		s.Agree(30*time.Second, a, b, d) // it catches up by blocks that are old
		r := a.Submit("five", `{}`, parley.Accepted)
		time.Sleep(30 * time.Second)
		if got, err := a.Record(r.ID); err != nil || got.Status != "pending" {
			t.Fatalf("a, b and the restored d made a block: record %s, %v", got.Status, err)
		}
		if !d.Log.Has(waits) {
			t.Error("d does not say that it waits")
		}
		c.Start()
		s.Until("the record is committed by a, b and c", time.Minute, func() bool {
			got, err := a.Record(r.ID)
			return err == nil && got.Status == "committed"
		})
		s.Agree(30*time.Second, a, b, c, d)
		got, err := a.Record(r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if signers := a.signers(*got.Height); slices.Contains(signers, 4) {
			t.Errorf("the block that frees d is signed by %v", signers)
		}
		a.Submit("five and a half", `{}`, parley.Committed) // the second block above what d may have voted for
		s.Until("d orders again", 30*time.Second, func() bool { return d.Node.Status().Validators.Connected == 4 && d.Log.Has("engine started") })
		c.Stop()
		six := a.Submit("six", `{}`, parley.Committed)
		s.Agree(30*time.Second, a, b, d)
		if signers := a.signers(*six.Height); !slices.Contains(signers, 4) {
			t.Errorf("without c, block %d is signed by %v", *six.Height, signers)
		}
	})
}

// All validators are restored, each from a backup of its own moment: nobody
// votes until each operator says so.
func TestRestoreOfAll(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c := s.Add(), s.Add(), s.Add()
		s.Genesis("story-all-restored", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		var backups [][]byte
		for i, n := range s.nodes {
			a.Submit("before "+strconv.Itoa(i), `{}`, parley.Committed)
			s.Agree(10*time.Second, a, b, c)
			backups = append(backups, n.backup())
		}
		for i, n := range s.nodes {
			n.Stop()
			n.restore(backups[i])
		}
		for _, n := range s.nodes {
			n.Start()
		}
		s.Agree(30*time.Second, a, b, c)
		r := a.Submit("after", `{}`, parley.Accepted)
		time.Sleep(30 * time.Second)
		if got, err := a.Record(r.ID); err != nil || got.Status != "pending" {
			t.Fatalf("validators without their logs made a block: record %s, %v", got.Status, err)
		}
		for _, n := range s.nodes {
			n.Stop()
			n.cfg.Consortium.SoleValidator = true
		}
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("consented", `{}`, parley.Committed)
		s.Agree(30*time.Second, a, b, c)
		for _, n := range s.nodes { // and none needs the consent again
			n.Stop()
			n.cfg.Consortium.SoleValidator = false
		}
		for _, n := range s.nodes {
			n.Start()
		}
		b.Submit("as ever", `{}`, parley.Committed)
		s.Agree(30*time.Second, a, b, c)
	})
}

// A newcomer starts from a backup: it is at the backup's tip at once, follows,
// and verifies what is below it once. What is damaged there is told.
func TestNewcomerFromBackup(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		a.Start()
		for i := range 20 {
			a.Submit("thing "+strconv.Itoa(i), `{}`, parley.Committed)
		}
		backup := a.backup()
		late := a.Submit("late", `{}`, parley.Committed)

		b := s.Add(Peers(a.Addr()))
		b.restore(backup)
		b.Start()
		if at := b.Node.Status().Head.Height; at < 20 {
			t.Errorf("starts at height %d", at)
		}
		sub, _ := b.Events().SubscribeSince(0)
		defer sub.Close()
		s.Until("the newcomer follows", 20*time.Second, func() bool {
			r, err := b.Record(late.ID)
			return err == nil && r.Status == "committed"
		})
		s.Until("the backup is verified", 20*time.Second, func() bool {
			v := b.Node.Status().Verification
			return v != nil && v.State == "good" && v.Done == 20
		})
		events, _ := sub.Take(10_000)
		if !slices.ContainsFunc(events, func(e event.Envelope) bool { return e.Data == event.LedgerChecked{OK: true, Height: 20} }) {
			t.Error("no event tells of it")
		}
		b.Stop()
		b.Start()
		s.Agree(20*time.Second, a, b)
		if v := b.Node.Status().Verification; v != nil {
			t.Errorf("verified again: %+v", v)
		}

		c := s.Add(Peers(a.Addr()))
		c.restore(backup)
		c.damage(3)
		c.Start()
		s.Until("the damage is found", 20*time.Second, func() bool {
			v := c.Node.Status().Verification
			return v != nil && v.State == "damaged" && v.Done == 3
		})
		if st := c.Node.Status(); st.Verdict != "degraded" || !c.Log.Has("level=ERROR", "the chain of the backup is damaged", "height=3") {
			t.Errorf("verdict %s %v", st.Verdict, st.Reasons)
		}
		s.Agree(20*time.Second, a, c) // it goes on nevertheless
	})
}

// damage changes a byte of a block's body, on the disk of a node that does not
// run.
func (n *Node) damage(height byte) {
	t := n.swarm.T
	t.Helper()
	db, err := pebble.Open(n.ledgerDir(), &pebble.Options{FS: n.disk, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	key := []byte{'b', 0, 0, 0, 0, 0, 0, 0, height, 0, 0}
	v, closer, err := db.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	v = bytes.Clone(v)
	v[len(v)-1] ^= 1
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Set(key, v, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(f)
}
