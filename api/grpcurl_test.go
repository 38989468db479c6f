package api

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGRPCurl asks by a client that is made on Google's gRPC library and knows
// no service beforehand: all comes by reflection.
func TestGRPCurl(t *testing.T) {
	tool, err := filepath.Abs("../bin/grpcurl") // make test builds it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err != nil {
		t.Skip("grpcurl is not built: go build -modfile=tools/go.mod -o bin/ github.com/fullstorydev/grpcurl/cmd/grpcurl")
	}
	h := start(t, nil)
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	addr := strings.TrimPrefix(h.base, "http://")
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), tool, append([]string{"-plaintext", "-max-time", "20"}, args...)...).CombinedOutput()
		return string(out), err
	}
	list, err := run(addr, "list")
	for _, want := range h.services {
		if want != "grpc.health.v1.Health" && !strings.HasPrefix(want, "grpc.reflection.") && !strings.Contains(list, want+"\n") {
			t.Errorf("list lacks %s: %v\n%s", want, err, list)
		}
	}
	if out, err := run(addr, "describe", "parley.v1.ChainService.SubmitRecord"); err != nil || !strings.Contains(out, "returns ( .parley.v1.Record )") {
		t.Errorf("describe: %v\n%s", err, out)
	}
	if out, err := run(addr, "grpc.health.v1.Health/Check"); err != nil || !strings.Contains(out, "SERVING") {
		t.Errorf("health: %v\n%s", err, out)
	}
	out, err := run("-H", "authorization: Bearer "+h.token("admin"), "-d", `{"subject":"s","body":"{\"a\":1}"}`, addr, "parley.v1.ChainService/SubmitRecord")
	var record struct{ Status, Body string }
	if err != nil || json.Unmarshal([]byte(out), &record) != nil || record.Status != "committed" || record.Body != `{"a":1}` {
		t.Errorf("submit: %v\n%s", err, out)
	}
	if out, err := run("-d", `{"subject":"s"}`, addr, "parley.v1.ChainService/SubmitRecord"); err == nil || !strings.Contains(out, "Unauthenticated") || !strings.Contains(out, "PLY-004") {
		t.Errorf("without a token: %v\n%s", err, out)
	}
	if out, err := run("-max-time", "2", "-d", `{"from":0}`, addr, "parley.v1.ChainService/WatchBlocks"); err == nil || strings.Count(out, `"prevHash"`) < 2 || !strings.Contains(out, "DeadlineExceeded") {
		t.Errorf("blocks: %v\n%s", err, out)
	}
}
