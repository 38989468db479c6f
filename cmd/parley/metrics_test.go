package main

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metricsPage is what users build dashboards and alerts on.
const (
	metricsPage = "../../docs/metrics.md"
	mostOfFirst = 60 << 10 // bytes of a node's first scrape
)

var (
	sampleLine = regexp.MustCompile(`^(parley_\w+)(?:\{(.*)\})? `)
	labelPair  = regexp.MustCompile(`(\w+)="(?:[^"\\]|\\.)*"`)
)

// rows describes each metric of a scrape as docs/metrics.md does: name, kind,
// labels, help. One without a sample is none.
func rows(t *testing.T, scrape string) map[string]string {
	t.Helper()
	kind, help, labels := map[string]string{}, map[string]string{}, map[string]map[string]bool{}
	for line := range strings.Lines(scrape) {
		if f := strings.SplitN(strings.TrimSpace(line), " ", 4); len(f) == 4 && f[0] == "#" && strings.HasPrefix(f[2], "parley_") {
			if f[1] == "TYPE" {
				kind[f[2]] = f[3]
			} else {
				help[f[2]] = f[3]
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := m[1]
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base, is := strings.CutSuffix(name, part); is && kind[base] == "histogram" {
				name = base
			}
		}
		if labels[name] == nil {
			labels[name] = map[string]bool{}
		}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if pair[1] != "le" {
				labels[name][pair[1]] = true
			}
		}
	}
	out := map[string]string{}
	for name, set := range labels {
		list := strings.Join(slices.Sorted(maps.Keys(set)), ", ")
		out[name] = "| `" + name + "` | " + kind[name] + " | " + list + " | " + help[name] + " |"
	}
	return out
}

// TestMetricsPage: the first scrape of a running node has every metric of the
// page, of that kind and with those labels, and no other one of ours.
func TestMetricsPage(t *testing.T) {
	chain := startScaled(t, `sink=[{ kind = "nats", url = "nats://127.0.0.1:1" }]`)
	chain.until("it knows its topics", patience, func() bool { var list any; return chain.get("gossip/mesh?topic=block", &list) == nil })
	first := chain.page("/metrics")
	if n := len(first); n > mostOfFirst {
		t.Errorf("the first scrape has %d bytes, want at most %d: which series are zeros that nobody needs yet?", n, mostOfFirst)
	}
	have := rows(t, first)
	app := startScaled(t, "network=sidecar", "sidecar.topics=tx")
	app.until("it knows its topics", patience, func() bool { var list any; return app.get("gossip/mesh?topic=tx", &list) == nil })
	maps.Copy(have, rows(t, app.page("/metrics")))
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	var out bytes.Buffer
	for line := range strings.Lines(string(page)) {
		name, _, is := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
		if !is || !strings.HasPrefix(line, "| `parley_") {
			out.WriteString(line)
			continue
		}
		told = append(told, name)
		row, exists := have[name]
		switch {
		case !exists:
			t.Errorf("%s is told of, and no node has it at its first scrape", name)
		case row != strings.TrimSpace(line):
			t.Errorf("a node has\n%s\nand the page tells\n%s", row, line)
		}
		if !exists {
			row = strings.TrimSpace(line)
		}
		out.WriteString(row + "\n")
	}
	if *update {
		if err := os.WriteFile(metricsPage, out.Bytes(), 0o644); err != nil { //nolint:gosec // a page of the repository
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(told) || len(told) < 50 {
		t.Errorf("%d metrics are told of; sorted: %v", len(told), slices.IsSorted(told))
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !slices.Contains(told, name) {
			t.Errorf("the page lacks\n%s", have[name])
		}
	}
}
