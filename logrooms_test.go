package parley_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/config"
)

// The rooms that log.level may name are those that the sources make a log for.
func TestLogRooms(t *testing.T) {
	form := regexp.MustCompile(`(?:\broom\(|"room", )"([a-z0-9_.]+)"`)
	made := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range form.FindAllStringSubmatch(string(b), -1) {
			made[m[1]] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for room, path := range made {
		if !slices.Contains(config.LogRooms, room) {
			t.Errorf("%s logs as %s, which config.LogRooms does not have", path, room)
		}
	}
	for _, room := range config.LogRooms {
		if made[room] == "" {
			t.Errorf("nothing logs as %s: take it out of config.LogRooms", room)
		}
	}
}
