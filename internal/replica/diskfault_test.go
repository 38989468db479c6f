package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// endsInTime is the exit code of a process that the fault did not end.
const endsInTime = 3

// TestDiskFaults: whichever write of the store fails, and how, the process ends
// by itself with one line, and what it said was committed is there afterwards.
func TestDiskFaults(t *testing.T) {
	if dir := os.Getenv("DISK_FAULT_DIR"); dir != "" {
		faultyDisk(t, dir)
		return
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		for _, at := range []int{0, 7} {
			t.Run(fmt.Sprintf("%s/%d", errno, at), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDiskFaults$")
				c.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "DISK_FAULT_DIR="+dir, fmt.Sprintf("DISK_FAULT=%d", errno), fmt.Sprintf("DISK_FAULT_AT=%d", at))
				out, _ := c.CombinedOutput()
				text := string(out)
				if code := c.ProcessState.ExitCode(); code != 1 || strings.Contains(text, "goroutine ") {
					t.Fatalf("exit code %d\n%s", code, text)
				}
				if n := strings.Count(text, "level=ERROR"); n != 1 || !strings.Contains(text, errno.Error()) {
					t.Fatalf("%d lines tell why\n%s", n, text)
				}
				committed, err := os.ReadFile(filepath.Join(dir, "committed"))
				if err != nil {
					t.Fatal(err)
				}
				l, err := ledger.Open(ledger.Options{Dir: filepath.Join(dir, "ledger"), Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if n, _ := strconv.ParseUint(string(committed), 10, 64); n == 0 || l.Tip().Records < n {
					t.Errorf("%d records said to be committed, %d are there", n, l.Tip().Records)
				}
				if err := l.CheckLast(t.Context(), 1000, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// faultyDisk is the process: a lone validator whose store fails at some write.
func faultyDisk(t *testing.T, dir string) {
	errno, _ := strconv.Atoi(os.Getenv("DISK_FAULT"))
	at, _ := strconv.Atoi(os.Getenv("DISK_FAULT_AT"))
	var broken atomic.Bool
	var writes atomic.Int64
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && broken.Load() && writes.Add(1) > int64(at) {
			return syscall.Errno(errno)
		}
		return nil
	}))
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	c := ledgertest.New(t, 1)
	cfg := Config{
		Key: ledgertest.Key("validator 1"), DataDir: dir, LedgerFS: fs, Chain: config.Default().Consortium, End: func() { os.Exit(1) }, SoleValidator: true,
	}
	member(t, c)(&cfg)
	r, err := New(cfg, event.NewBus(1024), log, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := r.Run(t.Context(), newWorld()); err != nil { // as parley run does
			log.Error("node stopped", "err", err)
			os.Exit(1)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := uint64(1); ctx.Err() == nil; i++ {
		rec := &consortium.Record{Nonce: i, Subject: "thing", MediaType: "text/plain"}
		rec.Sign(ledgertest.Key("author"), c.Genesis().Hash())
		if _, err := r.Submit(ctx, rec.Encode(), true); errors.Is(err, context.DeadlineExceeded) {
			break
		} else if err == nil {
			if err := os.WriteFile(filepath.Join(dir, "committed"), []byte(fmt.Sprint(i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		broken.Store(i >= 5)
	}
	os.Exit(endsInTime)
}
