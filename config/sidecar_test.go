package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func loadSidecar(t *testing.T, file string, environ ...string) (*Loaded, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "parley.toml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(LoadArgs{Dir: dir, Environ: append(environ, "HOME="+dir), Hostname: "h"})
}

func TestSidecarTopics(t *testing.T) {
	want := SidecarTopics{{"tx", 64 << 10, true}, {"blocks", 0, true}, {"free", 1 << 20, false}}
	for name, x := range map[string]struct{ file, env string }{
		"inline tables": {file: "network = \"sidecar\"\n[sidecar]\ntopics = [{ name = \"tx\", max = \"64KiB\", validate = true }, { name = \"blocks\" }, { name = \"free\", max = 1048576, validate = false }]\n"},
		"tables":        {file: "network = \"sidecar\"\n[[sidecar.topics]]\nname = \"tx\"\nmax = \"64KiB\"\n[[sidecar.topics]]\nname = \"blocks\"\n[[sidecar.topics]]\nname = \"free\"\nmax = \"1MiB\"\nvalidate = false\n"},
		"texts":         {file: "network = \"sidecar\"\n[sidecar]\ntopics = [\"tx:64KiB\", \"blocks\", \"free:1MiB:novalidate\"]\n"},
		"environment":   {env: "PARLEY_SIDECAR__TOPICS=tx:64KiB, blocks, free:1MiB:novalidate"},
	} {
		l, err := loadSidecar(t, x.file, x.env)
		if err != nil || !reflect.DeepEqual(l.Sidecar.Topics, want) {
			t.Errorf("%s: %+v, %v", name, l, err)
			continue
		}
		var again SidecarTopics
		if err := again.setText(l.Sidecar.Topics.String()); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s: its text %s is read as %v, %v", name, l.Sidecar.Topics, again, err)
		}
	}
}

func TestSidecarFaults(t *testing.T) {
	for file, want := range map[string]string{
		"network = \"sidecar\"\nnetwork_name = \"Main\"":                   "network_name",
		"sidecar.topics = [\"a/b\"]":                                       `"a/b" is not 1 to 64`,
		"sidecar.topics = [\"tx\", \"tx\"]":                                "twice",
		"sidecar.topics = [\"tx:many\"]":                                   "no size",
		"sidecar.topics = [\"tx:1KiB:x\"]":                                 "NAME:MAX:novalidate",
		"sidecar.topics = [\"handshake\"]":                                 "topic of every node",
		"sidecar.topics = [{ nam = \"tx\" }]":                              `unknown key "nam"`,
		"sidecar.topics = [{ name = \"tx\", validate = \"yes\" }]":         "without quotes",
		"sidecar.topics = [7]":                                             "neither a table nor a text",
		"sidecar.topics = \"tx\"":                                          "write a list",
		"sidecar.topics = [\"tx:2KiB\"]\nsidecar.max_message = \"1KiB\"":   "sidecar.max_message, 1KiB",
		"sidecar.max_message = \"11MiB\"":                                  "10MiB",
		"sidecar.on_timeout = \"reject\"":                                  "ignore, accept",
		"sidecar.validate_timeout = \"1ms\"":                               "10ms",
		"sidecar.protocols = [\"a b\"]":                                    `"a b" is not`,
		"sidecar.topics = [\"best\"]\ngossip.topics.best_block = \"best\"": "topic of every node",
	} {
		if _, err := loadSidecar(t, file); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 1 {
			t.Errorf("%s: %v; want %q", file, err, want)
		}
	}
}
