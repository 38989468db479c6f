//go:build attack

package attack

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quiet silences simnet, which tells of each packet.
func quiet() {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1})))
}

// cpu is the CPU time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var commit = flag.String("commit", "", "the commit that is measured, for the table")

// save writes a page where -out says, with the commit.
func save(t *testing.T, name, text string) {
	t.Helper()
	if *out == "" {
		return
	}
	if c := strings.TrimSpace(*commit); c != "" {
		text += "Commit " + c + ".\n"
	}
	must(t, os.MkdirAll(*out, 0o755))
	must(t, os.WriteFile(filepath.Join(*out, name), []byte(text), 0o644))
}
