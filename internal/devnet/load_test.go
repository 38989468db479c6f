package devnet

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDraftHasItsSize(t *testing.T) {
	l := &loader{run: "00c0ffee"}
	for _, size := range []int{MinSize, 65, 256, MaxSize} {
		l.size = size
		for _, i := range []int{0, 9, 12345} {
			d, err := l.draft(i)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Body) != size || !json.Valid(d.Body) {
				t.Errorf("record %d of size %d: body of %d bytes %.80s", i, size, len(d.Body), d.Body)
			}
		}
	}
}

func TestQuantile(t *testing.T) {
	list := make([]time.Duration, 100)
	for i := range list {
		list[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		sorted []time.Duration
		q      float64
		want   time.Duration
	}{{list, 0.5, 50}, {list, 0.99, 99}, {list, 1, 100}, {list[:1], 0.99, 1}, {list[:3], 0.5, 2}, {nil, 0.5, 0}} {
		if have := quantile(c.sorted, c.q); have != c.want {
			t.Errorf("quantile %g of %d values is %d, want %d", c.q, len(c.sorted), have, c.want)
		}
	}
}

func TestSamplesAreBounded(t *testing.T) {
	l := &loader{started: time.Now()}
	for i := range maxSamples + 1000 {
		l.record(time.Duration(i), true, nil)
	}
	if len(l.samples) != maxSamples || l.load.Committed != maxSamples+1000 {
		t.Errorf("%d samples of %d records, want %d", len(l.samples), l.load.Committed, maxSamples)
	}
}

func TestLoadRefuses(t *testing.T) {
	n := create(t, 1)
	for _, o := range []LoadOptions{{Size: 256}, {Size: 1, Records: 1}, {Size: MaxSize + 1, Records: 1}, {Size: 256, Records: 1, Rate: -1}} {
		if _, err := n.Load(t.Context(), o, nil); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := n.Load(t.Context(), LoadOptions{Size: 256, Records: 1}, nil); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("load on a devnet that is down: %v", err)
	}
}

// writer hands every write on.
type writer chan string

func (w writer) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

func TestLogs(t *testing.T) {
	n := create(t, 2)
	log1, log2 := n.logPath("node1"), n.logPath("node2")
	if err := os.WriteFile(log1, []byte("a\nb\nc\nhalf"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := n.Logs(t.Context(), &out, []string{"n1"}, 2, false); err != nil {
		t.Fatal(err)
	}
	if out.String() != "b\nc\n" {
		t.Errorf("the last two lines are %q", out.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	w := make(writer)
	done := make(chan error)
	go func() { done <- n.Logs(ctx, w, nil, 1, true) }()
	expect := func(want string) {
		t.Helper()
		select {
		case have := <-w:
			if have != want {
				t.Fatalf("wrote %q, want %q", have, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no line, want %q", want)
		}
	}
	expect("node1 | c\n")
	appendTo(t, log1, " done\n")
	expect("node1 | half done\n")
	appendTo(t, log2, "born\n")
	expect("node2 | born\n")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := n.Logs(t.Context(), &out, []string{"n7"}, 1, false); err == nil {
		t.Error("logs of a node that is not there")
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestTailOfALongLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "long.log")
	line := strings.Repeat("x", 999) + "\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(line, 3000)+"end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	texts, part, err := tail(f, 2)
	if err != nil || len(texts) != 2 || texts[0]+"\n" != line || texts[1] != "end" || len(part) != 0 {
		t.Errorf("tail gave %d lines, part %q, %v", len(texts), part, err)
	}
}
