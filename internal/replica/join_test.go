package replica

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestJoin: who is believed, and after how long.
func TestJoin(t *testing.T) {
	ours, theirs := ledgertest.New(t, 1).Genesis(), ledgertest.New(t, 1).Genesis()
	for _, tt := range []struct {
		name  string
		edit  func(*Config)
		meet  func(s *world)
		after time.Duration // at most
		asked []peer.ID
	}{
		{
			"one peer, which is named", func(c *Config) { c.Static = 1 },
			func(s *world) { s.meet(chain.Peer{ID: "named", Kept: true}, ours) }, 0, []peer.ID{"named"},
		},
		{
			"a bootstrap peer alone", func(c *Config) { c.Static, c.Seeds = 0, 1 },
			func(s *world) {
				s.meet(chain.Peer{ID: "stranger"}, theirs)
				s.meet(chain.Peer{ID: "boot", Named: true}, ours)
			}, settleTime, []peer.ID{"boot"},
		},
		{
			"one of two named peers is not there", func(c *Config) { c.Static = 2 },
			func(s *world) { s.meet(chain.Peer{ID: "named", Kept: true}, ours) }, settleTime, []peer.ID{"named"},
		},
		{
			"one of two named peers has no chain", func(c *Config) { c.Static = 2 },
			func(s *world) {
				s.meet(chain.Peer{ID: "named", Kept: true}, ours)
				s.meet(chain.Peer{ID: "empty", Kept: true}, nil)
			}, 0, []peer.ID{"named"},
		},
		{
			"a stranger was faster", func(c *Config) { c.Static = 1 },
			func(s *world) {
				s.meet(chain.Peer{ID: "stranger"}, theirs)
				time.AfterFunc(time.Minute, func() { s.meet(chain.Peer{ID: "named", Kept: true}, ours) })
			}, time.Minute + time.Second, []peer.ID{"named"},
		},
		{
			"a bootstrap peer, and a stranger", func(c *Config) { c.Static, c.Seeds = 0, 1 },
			func(s *world) {
				s.meet(chain.Peer{ID: "stranger"}, theirs)
				s.meet(chain.Peer{ID: "boot", Named: true}, ours)
			}, settleTime, []peer.ID{"boot"},
		},
		{
			"a stranger has what is pinned", func(c *Config) { c.Static = 1; c.Chain.GenesisHash = ours.Hash().String() },
			func(s *world) { s.meet(chain.Peer{ID: "stranger"}, ours) }, 0, []peer.ID{"stranger"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := open(t, ledgertest.Key("joiner"), &text{}, func(c *Config) { c.Static = 1; tt.edit(c) })
				s := newWorld()
				start := time.Now()
				tt.meet(s)
				if err := r.join(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if got := r.Genesis().Hash(); got != ours.Hash() {
					t.Errorf("joined %s, want %s", got, ours.Hash())
				}
				if d := time.Since(start); d > tt.after {
					t.Errorf("took %s, want %s", d, tt.after)
				}
				if !slices.Equal(s.opened, tt.asked) {
					t.Errorf("asked %v, want %v", s.opened, tt.asked)
				}
			})
		})
	}
}

// TestEmptyPeers: nodes that all wait for another one's chain say so, once.
func TestEmptyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &text{}
		r := open(t, ledgertest.Key("joiner"), log, func(c *Config) { c.Static = 1 })
		s := newWorld()
		s.meet(chain.Peer{ID: "empty", Kept: true}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- r.join(ctx, s) }()
		time.Sleep(emptyPatience - time.Second)
		if log.count("PLY-505") != 0 {
			t.Error("told too early")
		}
		time.Sleep(2 * emptyPatience)
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := log.count("level=WARN"); n != 1 || log.count("PLY-505") != 1 || log.count("genesis_file") != 1 {
			t.Errorf("%d warnings:\n%s", n, log.b.String())
		}
	})
}

// killFS tells of each moment after which a killed process has more on disk.
type killFS struct {
	vfs.FS
	synced func()
}

func (k killFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := k.FS.Create(name, category)
	return killFile{f, k.synced}, err
}

type killFile struct {
	vfs.File
	synced func()
}

func (f killFile) Sync() error {
	defer f.synced()
	return f.File.Sync()
}

func (f killFile) SyncData() error {
	defer f.synced()
	return f.File.SyncData()
}

// TestJoinKilled: whenever a node dies, a store with a genesis knows how high
// the network stood when it was made.
func TestJoinKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		var mu sync.Mutex
		var clones []*vfs.MemFS
		disk := killFS{mem, func() {
			mu.Lock()
			defer mu.Unlock()
			clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})) // a kill, no power cut
		}}
		var dir string
		r := open(t, ledgertest.Key("joiner"), &text{}, func(c *Config) { c.Static, c.LedgerFS, dir = 1, disk, c.DataDir+"/ledger" })
		s := newWorld()
		s.meet(chain.Peer{ID: "named", Kept: true, Claimed: chain.Head{Height: 77}}, ledgertest.New(t, 1).Genesis())
		s.meet(chain.Peer{ID: "stranger", Claimed: chain.Head{Height: 1 << 50}}, nil)
		if err := r.join(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		mu.Lock()
		defer mu.Unlock()
		with := 0
		for i, disk := range clones {
			l, err := ledger.Open(ledger.Options{Dir: dir, FS: disk, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatalf("killed at step %d: %v", i, err)
			}
			if l.Genesis() != nil {
				with++
				if born, err := l.Born(); err != nil || born != 77 {
					t.Errorf("killed at step %d: born %d, %v", i, born, err)
				}
			}
			_ = l.Close()
		}
		if with == 0 || with == len(clones) {
			t.Errorf("%d of %d stores have a genesis: the test does not look", with, len(clones))
		}
	})
}

// TestGenesisFileOfAnotherChain: a directory that holds a chain does not pass
// for the start of another one, and needs the file no more.
func TestGenesisFileOfAnotherChain(t *testing.T) {
	ours, theirs := ledgertest.New(t, 1), ledgertest.New(t, 2)
	fs, dir := vfs.NewMem(), t.TempDir()
	start := func(edit func(*Config)) error {
		cfg := Config{
			Chain: config.Default().Consortium, Name: "node", Key: ledgertest.Key("1"), DataDir: dir,
			LedgerFS: fs, MemoryWAL: &consensus.MemoryWAL{},
		}
		edit(&cfg)
		r, err := New(cfg, event.NewBus(busSize), slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return err
		}
		return r.Close()
	}
	if err := start(member(t, ours)); err != nil {
		t.Fatal(err)
	}
	err := start(member(t, theirs))
	var bad *StartError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), theirs.Genesis().Hash().String()) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the file of another chain: %v", err)
	}
	for _, edit := range []func(*Config){member(t, ours), func(c *Config) { c.Chain.GenesisFile = "/nowhere/genesis.json" }} {
		if err := start(edit); err != nil {
			t.Error(err)
		}
	}
}
