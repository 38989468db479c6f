package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"charm.land/fang/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
)

const helpColumns = 100 // of a terminal beside something else

// TestHelpFits: no line of a command's help is longer than a terminal is wide.
func TestHelpFits(t *testing.T) {
	t.Setenv("__FANG_TEST_WIDTH", "100") // it wraps paragraphs, and no rows
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
		if err := fang.Execute(t.Context(), root, fang.WithoutVersion()); err != nil {
			t.Fatal(path, err)
		}
		if !strings.Contains(out.String(), "FLAGS") {
			t.Errorf("%v: no help: %s", path, out.String())
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(ansi.Strip(line), " \n")
			if n := ansi.StringWidth(line); n > helpColumns {
				t.Errorf("parley %s --help: %d columns, want at most %d: %s", strings.Join(path, " "), n, helpColumns, line)
			}
		}
	}
}
