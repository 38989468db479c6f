package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// What docs/limits.md tells of memory; a node that takes more is another than
// the page describes.
const (
	mostPerIdle   = 24 << 10 // bytes of an idle connection
	mostPerStream = 48 << 10 // bytes of a client of the event stream
)

// scaled is a node that tells what it takes.
type scaled struct {
	*fleetNode
	ops string
}

func startScaled(t *testing.T, settings ...string) scaled {
	t.Helper()
	s := scaled{ops: freeAddr()}
	s.fleetNode = startFleetNode(t, "n", append(settings, "ops.listen="+s.ops, "ops.pprof=true")...)
	return s
}

// metric is the sum of a metric's samples.
func (s scaled) metric(name string) (sum float64) {
	s.t.Helper()
	for line := range strings.Lines(s.page("/metrics")) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if family, _, _ := strings.Cut(series, "{"); !ok || family != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}

func (s scaled) page(path string) string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.ops+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %d %v", path, res.StatusCode, err)
	}
	return string(b)
}

// memory is what heap and stacks hold after a collection.
func (s scaled) memory() float64 {
	s.page("/debug/pprof/heap?gc=1")
	return s.metric("go_memstats_heap_alloc_bytes") + s.metric("go_memstats_stack_inuse_bytes")
}

// needFiles raises how many files this process, and the nodes that it starts,
// may have open; where it may not, the test is skipped and says so.
func needFiles(t *testing.T, n uint64) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur >= n {
		return // the runtime has raised it to the hard limit
	}
	raised := syscall.Rlimit{Cur: n, Max: max(l.Max, n)} // root may have more than that
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		t.Skipf("it needs %d open files, and this process may have %d: raise its hard limit, ulimit -Hn %d (%v)", n, l.Cur, n, err)
	}
}

// TestThousandStreams: of two blocks of records each of 1,000 clients, half of
// them by WebSocket and half by server-sent events, gets every event in order.
func TestThousandStreams(t *testing.T) {
	const clients, records = 1000, 50
	needFiles(t, clients+1024)
	s := startScaled(t)
	before := s.memory()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	next := make([]func() ([]byte, error), clients)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var faults []error
	each := func(atOnce int, do func(i int) error) {
		t.Helper()
		places := make(chan struct{}, atOnce)
		for i := range clients {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				if err := do(i); err != nil {
					mu.Lock()
					defer mu.Unlock()
					faults = append(faults, fmt.Errorf("client %d: %w", i, err))
				}
			})
		}
		wg.Wait()
		if len(faults) > 0 {
			t.Fatalf("%d faults, such as %v", len(faults), faults[0])
		}
	}
	each(clients, func(i int) (err error) { // all at once, as after a restart of the node
		if i%2 == 0 {
			next[i], err = listenWebSocket(ctx, t, s.addr)
		} else {
			next[i], err = listenSSE(ctx, t, s.addr)
		}
		return err
	})
	if n := s.metric("parley_api_clients"); n != clients {
		t.Errorf("%v clients are counted", n)
	}
	perClient := (s.memory() - before) / clients
	var lines bytes.Buffer
	for i := range records {
		fmt.Fprintf(&lines, `{"subject":"scale","n":%d}`+"\n", i)
	}
	for range 2 {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://parley/api/v1/records/batch", bytes.NewReader(lines.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-ndjson")
		res, err := s.api.HTTP.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		lines.Reset() // the same once more, of another subject
		for i := range records {
			fmt.Fprintf(&lines, `{"subject":"scale 2","n":%d}`+"\n", i)
		}
	}
	began := time.Now()
	got := make([][]uint64, clients)
	each(clients, func(i int) error {
		for len(got[i]) < 2*records {
			b, err := next[i]()
			if err != nil {
				return fmt.Errorf("after %d events: %w", len(got[i]), err)
			}
			var seq uint64
			if _, err := fmt.Sscanf(string(b), `{"v":1,"seq":%d,`, &seq); err != nil || !bytes.Contains(b, []byte(`"record.committed"`)) {
				return fmt.Errorf("%.100s: %w", b, err)
			}
			got[i] = append(got[i], seq)
		}
		return nil
	})
	if !slices.IsSorted(got[0]) || len(slices.Compact(slices.Clone(got[0]))) != 2*records {
		t.Errorf("out of order: %v", got[0])
	}
	for i := range got {
		if !slices.Equal(got[i], got[0]) {
			t.Fatalf("client %d got other events than client 0", i)
		}
	}
	if n := s.metric("parley_api_events_dropped_total"); n != 0 {
		t.Errorf("%v events were dropped", n)
	}
	t.Logf("memory of a client: %.1f KiB; %d events were read within %s", perClient/1024, clients*2*records, time.Since(began))
	if perClient > mostPerStream {
		t.Errorf("a client takes %.0f bytes, docs/limits.md tells %d", perClient, mostPerStream)
	}
}

const scaleTypes = "?types=record.committed"

func listenWebSocket(ctx context.Context, t *testing.T, addr string) (next func() ([]byte, error), err error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/api/v1/ws"+scaleTypes, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	next = func() ([]byte, error) { _, b, err := conn.Read(ctx); return b, err }
	_, err = next() // hello
	return next, err
}

func listenSSE(ctx context.Context, t *testing.T, addr string) (next func() ([]byte, error), err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/events"+scaleTypes, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	next = func() ([]byte, error) {
		for lines.Scan() {
			if data, is := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); is {
				return data, nil
			}
		}
		return nil, errors.Join(lines.Err(), io.ErrUnexpectedEOF)
	}
	_, err = next() // hello
	return next, err
}

// TestIdleConnections opens 10,000 connections and keeps them: half of them have
// asked once, half never say a word. The node goes on, within its limits.
func TestIdleConnections(t *testing.T) {
	const idle, most = 10000, 4096
	needFiles(t, idle+1024)
	s := startScaled(t)
	before := s.memory()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for i := range idle {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, conn)
		if i%2 == 0 {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.WriteString(conn, "GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if err == nil {
			var res *http.Response
			if res, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				_, err = io.Copy(io.Discard, res.Body)
			}
		}
		if err != nil {
			t.Fatalf("connection %d is not served beside those that idle: %v", i, err)
		}
	}
	began := time.Now()
	if err := s.get("status", new(map[string]any)); err != nil {
		t.Errorf("the local socket: %v", err)
	}
	submit(s.fleetNode, "beside them")
	took := time.Since(began)
	open := openAt(t, s.addr)
	per := (s.memory() - before) / float64(open)
	t.Logf("%d connections are open, %.1f KiB each; a record was committed in %s", open, per/1024, took)
	if open > most+1024 {
		t.Errorf("%d connections are open, want at most %d and 1,024 that have not begun", open, most)
	}
	if per > mostPerIdle {
		t.Errorf("an idle connection takes %.0f bytes, docs/limits.md tells %d", per, mostPerIdle)
	}
}

// openAt counts the connections that the machine holds open at addr.
func openAt(t *testing.T, addr string) (open int) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) && f[3] == "01" { // established
			open++
		}
	}
	return open
}
