package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// licensed reads which modules licenses.txt names, and which stand over a text.
func licensed(t *testing.T) (listed, texted []string) {
	t.Helper()
	parts := strings.Split(licenses, "\n"+strings.Repeat("=", 80)+"\n")
	for line := range strings.Lines(parts[0]) {
		if m, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			listed = append(listed, m)
		}
	}
	for _, part := range parts[1:] {
		names, text, ok := strings.Cut(part, "\n"+strings.Repeat("-", 80)+"\n")
		if !ok || len(strings.TrimSpace(text)) < 100 {
			t.Errorf("no text for %s", names)
		}
		texted = append(texted, strings.Split(names, "\n")...)
	}
	slices.Sort(texted)
	return listed, slices.Compact(texted)
}

// TestLicensesAreWhole holds licenses.txt to what is linked, as go version -m
// tells of the binary, in its very versions. It needs no network: what is
// linked is there, for this test is, and the rest is in go.sum.
func TestLicensesAreWhole(t *testing.T) {
	listed, texted := licensed(t)
	if !slices.IsSorted(listed) || !slices.Equal(listed, texted) {
		t.Errorf("%d modules are listed, %d have a text", len(listed), len(texted))
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", ".")
	list.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly")
	var said strings.Builder
	list.Stderr = &said
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(list.Args, " "), err, said.String())
	}
	linked := strings.Fields(strings.ReplaceAll(string(out), " ", "@"))
	slices.Sort(linked)
	linked = slices.Compact(linked)
	if len(linked) < 100 {
		t.Fatalf("only %d modules are linked", len(linked))
	}
	for _, m := range linked {
		if m = strings.Replace(m, "@", " ", 1); !slices.Contains(listed, m) {
			t.Errorf("%s is linked, and its licence is not shown: run scripts/licenses", m)
		}
	}
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range listed { // those of other systems are linked there
		if m != "Go, its standard library" && m != "github.com/parley-p2p/parley" && !strings.Contains("\n"+string(sums), "\n"+m+" h1:") {
			t.Errorf("%s is not of go.sum: run scripts/licenses", m)
		}
	}
}
