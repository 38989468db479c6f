package main

import (
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
// tells of the binary, in its very versions.
func TestLicensesAreWhole(t *testing.T) {
	modules := func(args ...string) []string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "go", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Split(strings.TrimSpace(string(out)), "\n")
		slices.Sort(list)
		return slices.Compact(list)
	}
	listed, texted := licensed(t)
	if !slices.IsSorted(listed) || !slices.Equal(listed, texted) {
		t.Errorf("%d modules are listed, %d have a text", len(listed), len(texted))
	}
	linked := modules("list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", ".")
	linked = slices.DeleteFunc(linked, func(m string) bool { return m == "" })
	if len(linked) < 100 {
		t.Fatalf("only %d modules are linked", len(linked))
	}
	for _, m := range linked {
		if !slices.Contains(listed, m) {
			t.Errorf("%s is linked, and its licence is not shown: run scripts/licenses", m)
		}
	}
	all := modules("list", "-m", "-f", "{{.Path}} {{.Version}}", "all")
	for _, m := range listed {
		if m != "Go, its standard library" && m != "github.com/parley-p2p/parley" && !slices.Contains(all, m) {
			t.Errorf("%s is not of go.mod: run scripts/licenses", m)
		}
	}
}
