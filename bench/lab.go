package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/devnet"
)

const (
	pollEvery  = 10 * time.Millisecond
	startLimit = 2 * time.Minute
	equalLimit = 30 * time.Second
	ticksPerS  = 100 // USER_HZ: the unit of times in /proc/PID/stat on Linux
)

// lab is a devnet of real processes under measurement.
type lab struct {
	net     *devnet.Net
	dir     string
	nodes   []devnet.Node // those of the genesis
	clients map[string]*devnet.Client
	genesis chain.Hash
}

// establish makes keys and genesis in dir, on ports that are free.
func establish(dir, binary string, nodes int) (*lab, error) {
	base := 20000 + 100*rand.IntN(100)
	var taken *devnet.PortError
	for {
		n, err := devnet.Create(devnet.Options{Dir: dir, Binary: binary, Nodes: nodes, BasePort: base})
		if errors.As(err, &taken) && taken.Base != 0 {
			base = taken.Base
			continue
		}
		if err != nil {
			return nil, err
		}
		return &lab{net: n, dir: dir, clients: map[string]*devnet.Client{}}, nil
	}
}

// start runs the nodes. agreed is the time from the first process to when all
// have one head and see each other.
func (l *lab) start(ctx context.Context) (agreed time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- l.net.Start(ctx, nil) }()
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for agreed == 0 {
		select {
		case err := <-done:
			if err != nil {
				return 0, err
			}
			agreed = time.Since(begin)
			done <- nil
		case <-t.C: // the lab looks ten times as often as Start does
			if rows, err := l.net.Status(ctx); err == nil && allUp(rows) && devnet.Missing(rows) == "" {
				agreed = time.Since(begin)
			}
		}
	}
	if err := <-done; err != nil {
		return 0, err
	}
	return agreed, l.meet(ctx)
}

func allUp(rows []devnet.Row) bool {
	for _, r := range rows {
		if r.PID == 0 {
			return false
		}
	}
	return true
}

// meet opens a client to each node and learns the chain.
func (l *lab) meet(ctx context.Context) error {
	s, err := l.net.State()
	if err != nil {
		return err
	}
	l.nodes = s.Nodes
	for _, node := range s.Nodes {
		l.client(node.Name)
	}
	c, err := l.chain(ctx, l.nodes[0].Name)
	l.genesis = c.GenesisHash
	return err
}

// client is for the goroutine that runs the lab; those of nodes exist when
// load starts.
func (l *lab) client(name string) *devnet.Client {
	if l.clients[name] == nil {
		l.clients[name] = devnet.NewClient(l.net.NodeDir(name))
	}
	return l.clients[name]
}

// do asks a node; an answer of 400 and above is one too, if it is no batch.
func (l *lab) do(ctx context.Context, node int, method, path string, body io.Reader, mediaType string) (*http.Response, error) {
	name := l.nodes[node].Name
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/api/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	res, err := l.clients[name].HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", name, err)
	}
	return res, nil
}

func (l *lab) chain(ctx context.Context, name string) (parley.Chain, error) {
	var c parley.Chain
	_, err := l.client(name).Do(ctx, http.MethodGet, "chain", nil, &c)
	if err != nil {
		return c, fmt.Errorf("chain of %s: %w", name, err)
	}
	return c, nil
}

// reach waits until a node's chain has the records.
func (l *lab) reach(ctx context.Context, name string, records uint64) (known, reached time.Time, err error) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		c, chainErr := l.chain(ctx, name)
		if chainErr == nil && known.IsZero() {
			known = time.Now()
		}
		if chainErr == nil && c.RecordCount >= records {
			return known, time.Now(), nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return known, known, fmt.Errorf("%s has %d of %d records: %w", name, c.RecordCount, records, errors.Join(ctx.Err(), chainErr))
		}
	}
}

// equal waits until all nodes that run have one head.
func (l *lab) equal(ctx context.Context, records uint64) error {
	ctx, cancel := context.WithTimeout(ctx, equalLimit)
	defer cancel()
	for _, node := range l.nodes {
		if _, _, err := l.reach(ctx, node.Name, records); err != nil {
			return err
		}
	}
	rows, err := l.net.Status(ctx)
	if err != nil {
		return err
	}
	if missing := devnet.Missing(rows); missing != "" {
		return fmt.Errorf("the nodes do not agree: %s", missing)
	}
	return nil
}

// heights says in an error how far each node came.
func (l *lab) heights(ctx context.Context) error {
	rows, err := l.net.Status(ctx)
	for _, r := range rows {
		err = errors.Join(err, fmt.Errorf("%s: %s, height %d, %d records, %d peers", r.Name, r.State, r.Height, r.Records, r.Peers))
	}
	return err
}

// newcomer adds a follower that is told one address. total counts from the
// start of its process, syncing from when it knows the chain. It is killed, so
// that it does not disturb what is measured next.
func (l *lab) newcomer(ctx context.Context, name string, records uint64) (total, syncing time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := l.net.Add(ctx, name, nil)
		done <- err
	}()
	known, reached, err := l.reach(ctx, name, records)
	if err = errors.Join(err, <-done); err != nil {
		return 0, 0, fmt.Errorf("newcomer: %w", err)
	}
	l.client(name).HTTP.CloseIdleConnections()
	_, err = l.net.Kill(name)
	return reached.Sub(begin), reached.Sub(known), err
}

// cpu is the processor time of all nodes of the genesis, in seconds.
func (l *lab) cpu() (float64, error) {
	var sum float64
	for _, node := range l.nodes {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(node.PID), "stat"))
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", node.Name, err)
		}
		ticks, err := parseStat(b)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", node.Name, err)
		}
		sum += float64(ticks) / ticksPerS
	}
	return sum, nil
}

// parseStat adds utime and stime. The name before them may hold anything.
func parseStat(b []byte) (ticks uint64, err error) {
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0, fmt.Errorf("%d fields in /proc/PID/stat", len(fields))
	}
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("field %d of /proc/PID/stat: %w", i, err)
		}
		ticks += n
	}
	return ticks, nil
}

// stop ends all nodes. One that has to be killed is a fault.
func (l *lab) stop(ctx context.Context) error {
	for _, c := range l.clients {
		c.HTTP.CloseIdleConnections()
	}
	killed, err := l.net.Stop(ctx)
	if len(killed) > 0 {
		err = errors.Join(err, fmt.Errorf("these nodes did not stop in time: %v", killed))
	}
	return err
}
