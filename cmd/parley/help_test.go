package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
)

// TestHelpFits: no line of a command's help is longer than a terminal is wide,
// and each page goes from an example over the command's own flags to the names
// of those that every command has, and to what else there is to say.
func TestHelpFits(t *testing.T) {
	t.Setenv("__FANG_TEST_WIDTH", "80") // it wraps paragraphs, and no rows
	var paths [][]string
	var walk func(c *cobra.Command, path []string)
	walk = func(c *cobra.Command, path []string) {
		paths = append(paths, path)
		for _, sub := range c.Commands() {
			walk(sub, append(slices.Clip(path), sub.Name()))
		}
	}
	walk(rootCommand(newGlobals()), nil)
	for _, path := range paths {
		var out bytes.Buffer
		root := rootCommand(newGlobals())
		root.SetOut(&out)
		root.SetArgs(append(path, "--help"))
		if err := execute(t.Context(), root); err != nil {
			t.Fatal(path, err)
		}
		pageOrder(t, path, out.String())
		fits(t, root, path)
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(ansi.Strip(line), " \n")
			if n := ansi.StringWidth(line); n > lineWidth {
				t.Errorf("parley %s --help: %d columns, want at most %d: %s", strings.Join(path, " "), n, lineWidth, line)
			}
		}
	}
}

// fits: in 80 columns a longer example is cut, and cannot be copied.
func fits(t *testing.T, root *cobra.Command, path []string) {
	t.Helper()
	const most = 70
	c, _, err := root.Find(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(c.Example, "\n") {
		if n := ansi.StringWidth(line); n > most {
			t.Errorf("parley %s --help: an example has %d columns, want at most %d: %s", strings.Join(path, " "), n, most, line)
		}
	}
}

// pageOrder holds a page of help to the order of its parts.
func pageOrder(t *testing.T, path []string, page string) {
	t.Helper()
	page = ansi.Strip(page)
	parts := []string{"  USAGE", "  EXAMPLES", "  FLAGS", "  FLAGS OF EVERY COMMAND", "  NOTES"}
	if len(path) == 0 {
		parts = parts[:3]
	}
	at := -1
	for i, part := range parts {
		found := strings.Index(page, "\n"+part)
		if found < 0 && part == "  NOTES" {
			break // nothing more is to be said
		}
		if found <= at {
			t.Errorf("parley %s --help: %q is not there, or not after %q:\n%s", strings.Join(path, " "), part, parts[max(0, i-1)], page)
			return
		}
		at = found
	}
	if len(path) == 0 {
		return
	}
	if before, _, _ := strings.Cut(page, "  EXAMPLES"); strings.Count(before, "\n") > 8 {
		t.Errorf("parley %s --help does not begin with an example:\n%s", strings.Join(path, " "), page)
	}
	own, globals, _ := strings.Cut(page, "  FLAGS OF EVERY COMMAND")
	globals, _, _ = strings.Cut(globals, "  NOTES")
	if strings.Contains(own, "File with an API token") || !strings.Contains(globals, "--token-file") || strings.Count(globals, "\n") > 7 {
		t.Errorf("parley %s --help: the flags of every command are not in one short block:\n%s", strings.Join(path, " "), page)
	}
}
