package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	quietLoad = 2.0  // load average before the start, above which we say so
	quietAA   = 0.10 // A/A difference, above which wall clock proves nothing
	slowest   = 0.75 // of the median, below which others had our cores meanwhile
)

// machine is where it ran, in the words of the result file.
type machine struct {
	CPU    string  `json:"cpu"`
	Cores  int     `json:"cores"`
	OS     string  `json:"os"`
	Go     string  `json:"go"`
	Commit string  `json:"commit"`
	Load   float64 `json:"load"` // average of the minute before the start
	Fsync  figure  `json:"-"`    // ms, in the directory of the nodes
}

// report is the result file.
type report struct {
	Harness string    `json:"harness"`
	Made    time.Time `json:"made"`
	Short   bool      `json:"short,omitempty"`
	Seconds float64   `json:"seconds"`
	Machine machine   `json:"machine"`
	FsyncMS float64   `json:"fsync_p50_ms"`
	Plan    plan      `json:"plan"`
	Checks  figure    `json:"signatures_s_core"` // the same work all along the run
	AA      float64   `json:"aa_difference"`
	Rows    []row     `json:"rows"`
	Sync    []syncRow `json:"sync"`
	Stall   *stallRow `json:"stall,omitempty"`

	Announcements []announceRow `json:"announcements"`
	Addrbook      *addrbookRow  `json:"addrbook,omitempty"`
	Discovery     *discoveryRow `json:"discovery,omitempty"`
	Bans          *bansRow      `json:"bans,omitempty"`
	Fanout        *fanoutRow    `json:"fanout,omitempty"`
	Rest          *restRow      `json:"rest,omitempty"`
	Sidecar       *sidecarRow   `json:"sidecar,omitempty"`
}

// look describes this machine. It is called before we load it ourselves.
func look(ctx context.Context) machine {
	m := machine{CPU: "unknown processor", Cores: runtime.GOMAXPROCS(0), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), Commit: "unknown"}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			name, _, _ := strings.Cut(rest, "\n")
			m.CPU = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &m.Load) // 0 where it is unknown
	}
	if b, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=10", "HEAD").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(b))
		if b, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output(); err == nil && len(bytes.TrimSpace(b)) > 0 {
			m.Commit += " with changes"
		}
	}
	return m
}

// finish adds what follows from all rows.
func (r *report) finish(begin time.Time) {
	for _, row := range r.Rows {
		r.Checks = append(r.Checks, row.checksCore...)
	}
	r.AA = sixDigits(spread(r.Checks))
	r.FsyncMS = sixDigits(r.Machine.Fsync.median())
	r.Seconds = sixDigits(time.Since(begin).Seconds())
	r.Made = time.Now().UTC().Truncate(time.Second)
}

// lines of the table: a label, and the cell of a row. nil is an empty line.
func (r *report) lines() []line {
	return []line{
		{"start to agreement, s", func(w *row) string { return w.AgreeS.text() }},
		{"start to first block on all, s", func(w *row) string { return w.FirstBlockS.text() }},
		{},
		{"committed records/s", func(w *row) string { return w.RecordsPS.text() }},
		{"  limit: bare pebble loop", func(w *row) string { return w.PebblePS.text() }},
		{"  share of it, %", func(w *row) string { return percent(w.PebbleX) }},
		{"  limit: signatures alone", func(w *row) string { return w.ChecksPS.text() }},
		{"  share of it, %", func(w *row) string { return percent(w.ChecksX) }},
		{"  records a block", func(w *row) string { return w.BlockRecords.text() }},
		{"  CPU us a record, all nodes", func(w *row) string { return w.CPUUS.text() }},
		{"  CPU us a record and node", func(w *row) string { return w.CPUNodeUS.text() }},
		{},
		{fmt.Sprintf("commit at %d/s: p50, ms", openPace), func(w *row) string { return w.P50MS.text() }},
		{fmt.Sprintf("commit at %d/s: p99, ms", openPace), func(w *row) string { return w.P99MS.text() }},
		{},
		{fmt.Sprintf("newcomer, %s records, s", number(float64(r.Plan.Synced))), func(w *row) string { return w.JoinS.text() }},
		{"  of it to sync, s", func(w *row) string { return w.SyncS.text() }},
		{"  records/s", func(w *row) string { return w.SyncPS.text() }},
		{"  MB/s", func(w *row) string { return w.SyncMBPS.text() }},
		{"  limit: bare pebble loop", func(w *row) string { return w.SyncPebblePS.text() }},
		{"  share of it, %", func(w *row) string { return percent(w.SyncX) }},
		{},
		{"acknowledged records", func(w *row) string { return number(float64(w.Acked)) }},
		{"missing on any node", func(w *row) string { return number(float64(w.Missing)) }},
	}
}

func percent(f figure) string { return f.each(func(v float64) float64 { return 100 * v }).text() }

type line struct {
	label string
	cell  func(*row) string
}

// tables are those of all sections.
func (r *report) tables() string {
	var all []string
	for _, s := range sections() {
		if t := s.table(r); t != "" {
			all = append(all, t)
		}
	}
	return strings.Join(all, "\n")
}

// table is the result of the load for people, at most 100 columns wide: by size
// of bodies, and beside each other as many numbers of nodes as there is room.
func (r *report) table() string {
	const most = 3
	var tables []string
	for rows := r.Rows; len(rows) > 0; {
		same := slices.IndexFunc(rows, func(w row) bool { return w.Body != rows[0].Body })
		if same < 0 {
			same = len(rows)
		}
		pieces := (same + most - 1) / most
		for part := range slices.Chunk(rows[:same], (same+pieces-1)/pieces) {
			tables = append(tables, r.columns(part))
		}
		rows = rows[same:]
	}
	return strings.Join(tables, "\n")
}

// columns is the table of rows with one size of bodies.
func (r *report) columns(rows []row) string {
	const label, column = 31, 23
	var b strings.Builder
	put := func(text string, cells []string) {
		parts := []string{pad(text, label, false)}
		for _, c := range cells {
			parts = append(parts, pad(c, column, true))
		}
		b.WriteString(strings.TrimRight(strings.Join(parts, ""), " ") + "\n")
	}
	var head []string
	for _, w := range rows {
		head = append(head, map[bool]string{true: "1 node", false: fmt.Sprintf("%d nodes", w.Nodes)}[w.Nodes == 1])
	}
	put(fmt.Sprintf("%s B: median (min–max)", number(float64(rows[0].Body))), head)
	b.WriteString(strings.Repeat("─", label+column*len(rows)) + "\n")
	gap := false
	for _, l := range r.lines() {
		var cells []string
		measured := false
		for i := range rows {
			if l.cell != nil {
				cells = append(cells, l.cell(&rows[i]))
				measured = measured || cells[i] != "–"
			}
		}
		if !measured { // nothing, or an empty line: one of them between parts
			gap = gap || l.cell == nil
			continue
		}
		if gap {
			put("", nil)
			gap = false
		}
		put(l.label, cells)
	}
	return b.String()
}

// pad counts characters, not bytes.
func pad(s string, width int, right bool) string {
	fill := strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
	if right {
		return fill + s
	}
	return s + fill
}

// honest says what the figures are made on, and what they do not prove.
func (r *report) honest() string {
	m := r.Machine
	var b strings.Builder
	fmt.Fprintf(&b, "machine   %s, %d cores, %s, %s, commit %s\n", m.CPU, m.Cores, m.OS, m.Go, m.Commit)
	fmt.Fprintf(&b, "          load %.2f before the start, fsync p50 %s ms\n", m.Load, number(r.FsyncMS))
	if m.Load >= quietLoad {
		fmt.Fprintf(&b, "LOADED    others used this machine: compare CPU time and shares, not the clock\n")
	}
	if len(r.Checks) > 0 {
		b.WriteString(r.aa())
	}
	fmt.Fprintf(&b, "harness   loopback: real processes; nodes and clients share the cores\n")
	fmt.Fprintf(&b, "load      records signed beforehand; %d writers of %d in batches, closed loop;\n", writers, batchLines)
	fmt.Fprintf(&b, "          latency: open loop, from when a record is due to its block on the disk of the node asked\n")
	return b.String()
}

// aa is how much equal work differed along the run.
func (r *report) aa() string {
	var b strings.Builder
	fmt.Fprintf(&b, "A/A       %s signatures/s on one core in %d runs all along; halves differ by %.1f %%\n", r.Checks.text(), len(r.Checks), 100*r.AA)
	if low := slices.Min(append(figure{math.MaxFloat64}, r.Checks...)); r.AA > quietAA || low < slowest*r.Checks.median() {
		fmt.Fprintf(&b, "NOISY     equal work differed too much (halves over %.0f %%, or one run under %.0f %% of the median):\n", 100*quietAA, 100*slowest)
		fmt.Fprintf(&b, "          others used the cores during the run, the clock of it proves nothing\n")
	}
	return b.String()
}

// save writes the result file and the page.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "latest.json"), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(r.page()), 0o644); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	return nil
}

func (r *report) page() string {
	return fmt.Sprintf(page, r.Made.Format("2006-01-02 15:04 MST"), r.Seconds, r.honest(), r.tables())
}

const page = "# Figures\n\n" +
	"Written by `make bench` (`go run ./bench`) on %s, in one run of %.0f s. Every run is in\n" +
	"[latest.json](latest.json).\n\n```\n%s\n%s```\n\n" + `How to read it:

- **committed**: certified by a quorum and synced to the disk of the node that answers. After the run all nodes are
  stopped and their ledgers read: each acknowledged record stands there once, in one order, or the run fails.
- **limit: bare pebble loop**: one goroutine writes the same records in blocks of the same size, with the keys of the
  ledger, one synced batch a block. It runs right after each round, on the same disk; shares are taken round by round.
- **limit: signatures alone**: Ed25519 checks on all cores if every node checks every record once and nothing else.
- **start**: from the first process on; keys and genesis exist. **Agreement** is one head and all see each other.
- **newcomer**: a process with an empty directory that is told one address. **To sync** counts from when it knows the
  chain.
- **sync**: our hosts in one process on loopback TCP, all ledgers on disk; those that serve share its cores with the
  newcomer. Raw TCP and the raw stream move the same bytes and throw them away; a sync also checks every signature and
  writes. With a link (Mbit/s) the newcomer reads no faster than that, raw or not.
- **CPU**: user and system time of the nodes' processes, the work of their API included. The same few authors sign all
  records, as they do on most chains; a signature of an author seen first costs about twice as much.
- **stall**: from kill -9 of the leader to the first commit of a record that was submitted after it, by any other node.
  Records are submitted all the while, to all nodes in turn. The next leader is killed when all nodes agree and commit.
- **a block, 98 in 100 records known**: what comes over the wire for it at a follower that had its hints. Bytes of
  messages and streams before encryption; hints are 32 bytes a record.
- **address book**: the book alone, in memory, full to the stated number; CPU times. Adding a signed record checks its signature,
  which is most of it; the heap holds the entry, its record, its places in the tables and the index by address.
- **lookup**: our discovery and stock dht.New, as many hosts each, all in one process over loopback TCP; all hosts ask in turn
  for ids that nobody has, so a lookup runs to its end. Ours goes over four paths and then asks the 20 nearest, without a handshake
  (public scope). CPU is that of all hosts.
- **dial until ready**: two whole nodes in one process, by address, from the call until the handshake is done; bare
  is Connect of two stock hosts, which ends with identify.
- **banned address refused**: CPU time of the node's process, which was asleep, from a connect or a QUIC dial of another
  process until that is refused, and its own idle time taken off. A QUIC dial is two packets; one alone wakes the node too.
  Of 50 attempts that come at once each is answered, and most find it awake.
- **event to 1,000 WebSockets**: each server is a process with as many clients, which another process plays: they read all and
  count. Ours is a whole node and its native stream, the envelope's JSON and the filters included; the others send the same
  frames. CPU is the server's, less what it uses without events. At once: 100 events that are published one after the other.
- **GET status**: a whole node, and a process with a bare net/http handler that writes the same header and body; one request
  after the other on each connection.
- **message from program to program**: two nodes, each a process with a Go program attached over gRPC at its local socket
  (PublishStream one way, Attach the other), and two hosts of go-libp2p-pubsub in one process, with the same ids and no signatures,
  over loopback TCP; at most 128 messages are under way, and each has to arrive, once. Programs, nodes and hosts share the
  cores. Latency: one each 2 ms.
- Nothing here was measured on a network of several machines.
`
