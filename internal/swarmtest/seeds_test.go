package swarmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A seed that failed or panicked runs again and counts as what it is, a good
// one does not run again before the code is another, and nothing begins after
// the time is up.
func TestSeedsScript(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell: ", err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "fake.test")
	fake := func(body string) {
		t.Helper()
		if err := os.WriteFile(binary, []byte("#!/bin/sh\necho ran $SWARM_SEED >> "+dir+"/ran\n"+body), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := func(wantGood bool, wantRan, wantSum, commit string, more ...string) {
		t.Helper()
		_ = os.Remove(filepath.Join(dir, "ran"))
		out, err := exec.Command("sh", append([]string{"seeds.sh", "faults", binary, filepath.Join(dir, "out"), "1", "3", commit}, more...)...).CombinedOutput()
		ran, _ := os.ReadFile(filepath.Join(dir, "ran"))
		if got := strings.Join(strings.Fields(strings.ReplaceAll(string(ran), "ran", "")), " "); got != wantRan {
			t.Errorf("seeds %q ran, want %q", got, wantRan)
		}
		if (err == nil) != wantGood || !strings.Contains(string(out), wantSum) {
			t.Errorf("%v, want good %v and %q:\n%s", err, wantGood, wantSum, out)
		}
	}
	const verdict = "echo 'x.go:1: acknowledged 10, committed 9, rejected 1, lost 0, duplicated 0, disagreements 0 (height 7)'\n"
	fake("[ $SWARM_SEED = 2 ] && { echo 'panic: consensus'; exit 2; }\n[ $SWARM_SEED = 3 ] && { " + strings.TrimSpace(verdict) + "; exit 1; }\n" + verdict)
	run(false, "1 2 3", "3 seeds, 2 failed, 1 without a verdict, which the sums leave out: acknowledged 20, committed 18,", "a")
	if b, err := os.ReadFile(filepath.Join(dir, "out", "seed-2.out")); err != nil || !strings.Contains(string(b), "panic") {
		t.Errorf("what seed 2 said: %q, %v", b, err)
	}
	fake(verdict)
	run(true, "2 3", "3 seeds, 0 failed: acknowledged 30,", "a")
	run(true, "", "3 seeds, 0 failed: acknowledged 30,", "a")
	run(true, "1 2 3", "of a, this is b-dirty", "b-dirty")
	run(true, "", "0s are over before seed 1", "c", "0s")
	run(false, "", "FOR=soon: want", "c", "soon")
}
