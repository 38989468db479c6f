package host

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
)

// The library keeps these for the whole process, so they are set once here.
func init() {
	gologshim.SetDefaultHandler(libraryLog{})
	// Else a second node on a taken port would start and steal connections.
	tcpreuse.EnvReuseportVal = false
	// quic-go prints to standard error when UDP buffers are small.
	if _, ok := os.LookupEnv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"); !ok {
		os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	}
}

// libraryTarget is where libp2p's log lines go: to the newest host's logger.
var libraryTarget atomic.Pointer[slog.Handler]

func routeLibraryLog(log *slog.Logger) {
	h := log.Handler()
	libraryTarget.Store(&h)
}

// libraryLog hands on libp2p's log lines as Debug, whatever their level: most
// of its warnings are about what some peer did.
type libraryLog struct {
	attrs []slog.Attr
}

func (l libraryLog) Enabled(ctx context.Context, _ slog.Level) bool {
	h := libraryTarget.Load()
	return h != nil && (*h).Enabled(ctx, slog.LevelDebug)
}

func (l libraryLog) Handle(ctx context.Context, r slog.Record) error {
	h := libraryTarget.Load()
	if h == nil {
		return nil
	}
	r = r.Clone()
	r.Level = slog.LevelDebug
	r.AddAttrs(l.attrs...)
	return (*h).Handle(ctx, r)
}

func (l libraryLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryLog{append(slices.Clip(l.attrs), attrs...)}
}

func (l libraryLog) WithGroup(string) slog.Handler { return l }
