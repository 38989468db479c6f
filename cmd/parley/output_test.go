package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/devnet"
)

func TestShowFormats(t *testing.T) {
	body := []byte(`{"items":[{"name":"a","height":9007199254740991},{"name":"b","height":2}],"count":2}` + "\n")
	view := func() (*table, error) {
		tab := &table{columns: []column{{name: "NAME"}, {name: "HEIGHT", right: true}, {name: "WIDE ONE", wide: true}}}
		tab.add("a", "9007199254740991", "x")
		tab.add("b\x1b[31m", "2", "y")
		return tab, nil
	}
	for format, want := range map[string]string{
		"json":  string(body),
		"jsonl": "{\"name\":\"a\",\"height\":9007199254740991}\n{\"name\":\"b\",\"height\":2}\n",
		"yaml":  "items:\n  - name: a\n    height: 9007199254740991\n  - name: b\n    height: 2\ncount: 2\n",
		"csv":   "name,height,wide_one\na,9007199254740991,x\nb\x1b[31m,2,y\n",
		"table": "NAME              HEIGHT\na       9007199254740991\nb [31m                 2\n",
		"wide":  "NAME              HEIGHT  WIDE ONE\na       9007199254740991  x\nb [31m                 2  y\n",

		"template={{range .items}}{{.name}}={{.height}} {{end}}": "a=9007199254740991 b=2 \n",
	} {
		var out bytes.Buffer
		g := &globals{output: format, out: &out}
		if err := g.show(body, view); err != nil {
			t.Errorf("%s: %v", format, err)
		} else if out.String() != want {
			t.Errorf("%s gives\n%s\nwant\n%s", format, out.String(), want)
		}
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	l := layout{columns: []column{{}, {}}, shown: []int{0, 1}, widths: []int{4, 100}, room: 20}
	if got := l.line([]string{"name", strings.Repeat("x", 100)}); got != "name  xxxxxxxxxxxxx…" {
		t.Errorf("line %q", got)
	}
}

const aPeerID = "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR"

// On a terminal of 80 columns nothing that somebody has to know is cut.
func TestTablesFitNarrowTerminals(t *testing.T) {
	next, hash := time.Date(2026, 11, 29, 4, 5, 6, 0, time.UTC), chain.Hash{1}
	id, err := peer.Decode(aPeerID)
	if err != nil {
		t.Fatal(err)
	}
	remedy := "start them, or mend their network: see parley chain validators [PLY-604]"
	for name, test := range map[string]struct {
		table *table
		want  []string // on lines of their own, in this order
	}{
		"status": {viewStatus(parley.Status{Network: config.NetworkConsortium, Verdict: "degraded", Reasons: []string{"no_quorum: " + strings.Repeat("word ", 30) + remedy, "peers: 0 of 1"}}),
			[]string{"verdict     degraded", "reason      no_quorum: word", "            ", "[PLY-604]", "reason      peers: 0 of 1"}},
		"static": {viewStatic(list[parley.StaticPeer]{Items: []parley.StaticPeer{
			{Item: aPeerID, ID: id, Origin: "member", State: "trying", Tries: 12, Class: "wrong_network", NextAt: &next, LastError: strings.Repeat("very ", 20) + "odd"},
			{Item: "node.example.org:8080", Origin: "config", State: "connected"}}}),
			[]string{"PEER       NEXT", "…k4kBRAcR", "  wrong_network: very very", "very odd", "node.example.org:8080"}},
		"bans": {(&globals{}).viewBans(list[parley.Ban]{Items: []parley.Ban{{Target: aPeerID, Reason: "invalid_block", Origin: "operator", Hits: 7, Created: next, Note: "scanner"}}}),
			[]string{"HITS", "…k4kBRAcR  never"}},
		"devnet": {viewDevnet([]devnet.Row{{Name: "node1", Role: "validator", PID: 123456, API: "http://127.0.0.1:8080", Peers: 3, Height: 1234, Head: &hash, Records: 123456, State: "healthy"}}),
			[]string{"RECORDS  REC/S  STATE", "  :8080  "}},
	} {
		lines := test.table.lines(false, 80)
		text := ansi.Strip(strings.Join(lines, "\n"))
		rest := text
		for _, want := range test.want {
			_, after, found := strings.Cut(rest, want)
			if !found {
				t.Errorf("%s has no %q, or not in this order:\n%s", name, want, text)
			}
			_, rest, _ = strings.Cut(after, "\n")
		}
		for _, line := range lines {
			if n := ansi.StringWidth(line); n > 80 || strings.HasSuffix(ansi.Strip(line), "…") {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		if wide := strings.Join(test.table.lines(false, 0), "\n"); name == "bans" && !strings.Contains(wide, aPeerID) {
			t.Errorf("%s through a pipe:\n%s", name, wide)
		}
	}
}

// A row is one line through a pipe too, and its cells before the last are whole.
func TestCutColumn(t *testing.T) {
	id, text := strings.Repeat("f", 64), strings.Repeat("ab", 200)
	show := func(wide bool) string {
		tab := &table{columns: []column{{name: "HEIGHT", right: true}, {name: "ID", wide: true}, {name: "BODY", cut: true}}}
		tab.add("7", id, text)
		tab.add("8", id, "short")
		var out bytes.Buffer
		if err := tab.print(&out, wide); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got, want := show(false), "HEIGHT  BODY\n     7  "+text[:71]+"…\n     8  short\n"; got != want {
		t.Errorf("table\n%s\nwant\n%s", got, want)
	}
	if got, want := show(true), "     7  "+id+"  "+text[:19]+"…\n"; !strings.Contains(got, want) {
		t.Errorf("wide table\n%s\nwant\n%s", got, want)
	}
}

// A peer's own long name moves no column, and -o wide has the whole of it.
func TestBoundedColumn(t *testing.T) {
	name := strings.Repeat("n", 64)
	l := list[parley.Peer]{Items: []parley.Peer{{ID: "abcdefghijkl", Name: name, State: "connected", Ready: true}}}
	for _, wide := range []bool{false, true} {
		var out bytes.Buffer
		if err := viewPeers(l, peersFlags{}).print(&out, wide); err != nil {
			t.Fatal(err)
		}
		cut := name[:nameWidth-1] + "…  …"
		if strings.Contains(out.String(), cut) == wide || strings.Contains(out.String(), name) != wide {
			t.Errorf("wide %v:\n%s", wide, out.String())
		}
	}
}

// A file that becomes a record's body does so byte for byte.
func TestRequestKeepsTheBody(t *testing.T) {
	for content, media := range map[string]string{
		"{ \"a\" : \"<a&b>\" }\n": jsonMedia, "\n two lines \n\n": "application/octet-stream", "{\"a\"": "application/octet-stream", "": "application/octet-stream",
	} {
		g := &globals{in: strings.NewReader(content)}
		b, err := g.request("-", "doc:1", "")
		if err != nil {
			t.Fatal(err)
		}
		d, err := decode[parley.Draft](b)
		if err != nil || string(d.BodyBase64) != content || d.Body != nil || d.MediaType != media || d.Subject != "doc:1" {
			t.Errorf("%q became %s (%v)", content, b, err)
		}
	}
}

func TestLogLevelsOfRooms(t *testing.T) {
	var out bytes.Buffer
	lines, err := newLog(config.Log{Level: "warn,p2p=info,p2p.gossip=debug", Format: "json"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(lines.Handler())
	gossip, dialer, replica := log.With("room", "p2p.gossip"), log.With("room", "p2p.dialer"), log.With("room", "replica")
	gossip.With("topic", "block").Debug("yes 1")
	dialer.Debug("no")
	dialer.Info("yes 2", "took", 1500*time.Millisecond)
	replica.Info("no")
	replica.Warn("yes 3")
	log.Info("no")
	if got := out.String(); strings.Count(got, "\n") != 3 || strings.Count(got, `"msg":"yes`) != 3 || !strings.Contains(got, `"took":"1.5s"`) {
		t.Errorf("log\n%s", got)
	}
}

func TestJournalLines(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(formatHandler("journal", &out))
	log.With("room", "api").Error("no disk", "err", "full")
	log.Debug("detail")
	if got, want := out.String(), "<3>msg=\"no disk\" room=api err=full\n<7>msg=detail\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
}
