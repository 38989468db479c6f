package parley

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// release is set by the linker for released binaries.
var release = ""

// buildVersion reads what the binary says of itself.
var buildVersion = sync.OnceValue(func() Version {
	v := Version{Name: "parley", Version: release, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, API: 1}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := info.Main.Version; v.Version == "" && m != "(devel)" && !strings.HasPrefix(m, "v0.0.0-") {
		v.Version = m // by go install of a release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	if v.Version == "" {
		v.Version = "v0.1.0-dev"
	}
	return v
})

// BuildVersion says what this binary is.
func BuildVersion() Version { return buildVersion() }

// Version says what this node's binary is.
func (n *Node) Version() Version { return buildVersion() }

func shortDigest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:4])
}
