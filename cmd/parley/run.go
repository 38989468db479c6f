package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/api"
	"github.com/parley-p2p/parley/api/sink"
	"github.com/parley-p2p/parley/config"
)

const (
	drainTime   = 10 * time.Second
	drainSlack  = 2 * time.Second // for the store to close after the rooms
	memoryShare = 0.8             // of the container's memory
)

func runCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "run", Short: "Run a node in the foreground; Ctrl-C drains, twice stops at once", Args: cobra.NoArgs,
		Long: "Without peers the node makes a chain of its own, or goes on with the one in its data directory. With peers it joins theirs.\n" +
			"Exit codes: 0 after SIGINT or SIGTERM, once all is drained; 130 after a second one, at once; 1 after a failure, with its " +
			"reason on one line (a disk that is full or broken, an engine that can not go on: a restart is safe); 2 after a panic; " +
			"78 for what a restart does not mend: configuration, data directory. SIGHUP reads the configuration again as parley config reload does; SIGUSR1 writes all stacks to the log.",
		Example: "parley run\nparley run --peers node1:8080,node2:8080\n" +
			"parley run --peers 127.0.0.1:8080 --data-dir node4 --p2p-port 9909 \\\n--api-listen 127.0.0.1:8083 --ops-listen 127.0.0.1:9093",
	}
	flags := addConfigFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := g.loadFlags(flags)
		if err != nil {
			return err
		}
		out, line := onScreen(g.err)
		lines, err := newLog(cfg.Log, out)
		if err != nil {
			return err
		}
		return runNode(c.Context(), cfg, lines, line, func(settings []byte) (*config.Loaded, error) {
			args, err := flags.args()
			if err != nil {
				return nil, err
			}
			args.Settings = settings
			return g.loadWith(args)
		})
	}
	return c
}

// runNode runs a node and its API until ctx ends or one of them fails. line,
// where the log is on a terminal, shows how far a sync is; reload reads the
// configuration again.
func runNode(ctx context.Context, cfg *config.Loaded, lines *api.Log, line *screen, reload func(settings []byte) (*config.Loaded, error)) error {
	log := slog.New(lines.Handler())
	signal.Ignore(syscall.SIGHUP) // it is no longer a signal to stop
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w)
	}
	limit, err := limitMemory(memlimit.FromCgroup)
	log.Debug("memory limit", "bytes", limit, "err", err) // no container, no limit
	tuneGC(ctx)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	tracer, ratio, stopTracing, err := newTracer(ctx, cfg, parley.BuildVersion().Version, log)
	if err != nil {
		return &parley.StartError{Code: 101, Err: err}
	}
	defer stopTracing() // the last spans are those of the end
	env := parley.Env{Log: log, Tracer: tracer, Registry: reg, End: func() { os.Exit(exitFailed) }, Reload: reload, Values: cfg.Values(), LogLevel: lines.Level}
	r, err := open(cfg, env, lines, ratio) //nolint:contextcheck // to open waits for nobody
	if err != nil {
		return err
	}
	banner(log, r.node)
	dumpOnSignal(ctx, log)
	reloadOnHangup(ctx, log, r.node)
	err = r.serve(ctx, log, line)
	if errors.Is(err, errNotDrained) {
		return err
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // a clean stop is no fault
	}
	return errors.Join(err, r.node.Close()) //nolint:contextcheck // its last write has a time of its own; nobody asks the store any more
}

// running is a node and what serves it to others.
type running struct {
	node   *parley.Node
	server *api.Server
	sinks  *delivery
}

// open opens them, and on an error closes what it has opened. env lacks what
// others take over of the configuration.
func open(cfg *config.Loaded, env parley.Env, lines *api.Log, ratio *sampler) (r *running, err error) {
	r = &running{sinks: &delivery{
		options: sink.Options{Node: cfg.Node.Name, Dir: cfg.DataDir, Log: env.Log, Registerer: env.Registry}, next: make(chan []config.Sink, 1),
	}}
	env.Live = map[string]func(config.Config) (func(), error){
		"log.level": lines.TakeLevel, "sink": r.sinks.take, "telemetry.sample_ratio": ratio.take,
	}
	if r.node, err = parley.New(cfg.Config, env); err != nil {
		return nil, portFault(err)
	}
	parley.KeepPanics(cfg.DataDir, env.Log)
	if r.server, err = api.New(r.node, api.Options{Log: env.Log, Registry: env.Registry, Lines: lines, Tracer: env.Tracer}); err != nil {
		return nil, errors.Join(portFault(err), r.node.Close())
	}
	o := &r.sinks.options
	o.Peer, o.Boot, o.Found = r.node.ID().String(), r.server.Boot(), r.node.FoundOutside
	if cfg.Network == config.NetworkConsortium {
		o.Chain = r.node
	}
	if err := r.sinks.open(cfg.Sinks, r.node.Events()); err != nil {
		return nil, errors.Join(&parley.StartError{Code: 101, Err: err}, r.server.Close(), r.node.Close())
	}
	return r, nil
}

var errNotDrained = fmt.Errorf("not drained within %s: stopped anyway, the store recovers at the next start", drainTime)

// serve works until ctx ends or one of them fails, and then drains. After
// errNotDrained they are still at work.
func (r *running) serve(ctx context.Context, log *slog.Logger, line *screen) error {
	g, gctx := errgroup.WithContext(ctx)
	events, noMore := context.WithCancel(context.WithoutCancel(ctx)) // until the node has published its last one
	g.Go(func() error { defer noMore(); return named("node", r.node.Run(gctx)) })
	g.Go(func() error { return named("sinks", r.sinks.run(events)) })
	g.Go(func() error { return named("api", r.server.Run(gctx)) })
	if line != nil {
		g.Go(func() error { line.showSync(gctx, r.node); return nil })
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // there may be no systemd
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return err
	case <-gctx.Done():
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	log.Info("stopping", "within", drainTime)
	select {
	case err := <-done:
		return err
	case <-time.After(drainTime + drainSlack):
		return errNotDrained
	}
}

// limitMemory has the runtime keep within a share of what the container has.
func limitMemory(container memlimit.Provider) (int64, error) {
	return memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(container))
}

// portFault names the flag that moves a taken port.
func portFault(err error) error {
	taken, ok := errors.AsType[*parley.PortError](err)
	if !ok {
		return err
	}
	flag := map[string]string{"api.listen": "--api-listen ", "ops.listen": "--ops-listen ", "p2p.port": "--p2p-port "}[taken.Key]
	free := taken.Free
	if taken.Key == "p2p.port" {
		free = strings.TrimPrefix(free, ":")
	}
	taken.Free = flag + free
	return taken
}

func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// banner tells a reader of the log who this node is and where it is reached.
func banner(log *slog.Logger, n *parley.Node) {
	info := n.Info()
	log.Info("parley", "version", n.Version().Version, "name", info.Name, "peer", info.PeerID, "data_dir", n.Config().DataDir)
	log.Info("p2p", "listen", info.Listen)
	if c, err := n.Chain(); err == nil {
		log.Info("chain", "chain", c.ChainID, "genesis", c.GenesisHash, "height", c.Height, "role", c.Role)
	} else {
		log.Info("chain", "state", "not known yet")
	}
}

// reloadOnHangup has the node read its configuration again at each SIGHUP. A
// wrong one changes nothing.
func reloadOnHangup(ctx context.Context, log *slog.Logger, node *parley.Node) {
	each(ctx, syscall.SIGHUP, func() {
		if _, err := node.ReloadConfig(ctx, false); err != nil {
			log.Error("configuration not read again: nothing has changed", "err", err)
		}
	})
}

// dumpOnSignal writes the stacks of all goroutines to the log at each SIGUSR1.
func dumpOnSignal(ctx context.Context, log *slog.Logger) {
	each(ctx, syscall.SIGUSR1, func() {
		var b bytes.Buffer
		err := pprof.Lookup("goroutine").WriteTo(&b, 2)
		log.Info("goroutines", "stacks", b.String(), "err", err)
	})
}

// each calls f at each signal, until ctx ends. The signal stays caught: it does
// not end a process that drains.
func each(ctx context.Context, sig os.Signal, f func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				f()
			}
		}
	}()
}
