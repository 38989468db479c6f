package api

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedCode makes the code of the services anew and compares it with
// what is kept.
func TestGeneratedCode(t *testing.T) {
	if _, err := exec.LookPath("protoc"); err != nil {
		t.Skip("protoc is not installed: apt-get install protobuf-compiler")
	}
	if testing.Short() {
		t.Skip("it builds the generators")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "../scripts/proto", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := func(root string) map[string][]byte {
		m := map[string][]byte{}
		err := fs.WalkDir(os.DirFS(root), "api/proto", func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".pb.go") && !strings.HasSuffix(path, ".connect.go") {
				return err
			}
			m[path], err = os.ReadFile(filepath.Join(root, path))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	want, got := files(dir), files("..")
	for path, b := range want {
		if !bytes.Equal(b, got[path]) {
			t.Errorf("%s is not what scripts/proto makes: run it", path)
		}
		delete(got, path)
	}
	for path := range got {
		t.Errorf("%s is of no .proto file: take it out", path)
	}
}
