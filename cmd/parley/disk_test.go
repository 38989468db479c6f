package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// onSmallDisk runs a script in a mount namespace, in a directory d that is a
// disk of its own. start runs a node there and api is its address.
func onSmallDisk(t *testing.T, script string) {
	t.Helper()
	needs(t, "bash", "unshare", "mount", "df")
	if out, err := exec.CommandContext(t.Context(), "unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt").CombinedOutput(); err != nil {
		lacking(t, fmt.Sprintf("a disk of its own needs root: unshare -m mount: %v %s", err, out))
	}
	const tools = `set -e
mkdir d; mount -t tmpfs -o size=4g none d
export PARLEY_NODE=unix:$PWD/d/n/parley.sock
start() { parley run --data-dir d/n --api-listen 127.0.0.1:0 --set p2p.port=0 --set profile=devnet --set ops.listen= >>log 2>&1 & pid=$!; }
fail() { echo "never: $*"; tail -n 40 log; df -m d; exit 1; }
until_ok() { for i in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; fail "$@"; }
gone() { ! kill -0 $pid; }
low() { gone || is disk_low; }
submit() { echo '{"subject":"'$1'","body":"x"}' | parley tx submit -; }
is() { parley status | grep -q "$1"; }
ends() { set +e; wait $pid; code=$?; set -e; test $code = $1 || fail "exit code $code, want $1"; }
used() { df -k --output=used d | tail -n 1 | tr -d ' '; }
leave() { mount -o remount,size=$(($(used) + $1))k d; } # so many KiB free
fill() { for spare in 4 1024 4096 16384 65536; do leave $spare 2>/dev/null && return; done; fail fill; } # the node writes meanwhile
empty() { mount -o remount,size=4g d; }
trap 'kill -INT $pid 2>/dev/null || true; wait || true' EXIT
`
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// in a pid namespace of its own: all of it dies with unshare, and unshare with us
	cmd := exec.CommandContext(ctx, "unshare", "-m", "-p", "--mount-proc", "--fork", "--kill-child", "bash", "-c", tools+script)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 15 * time.Second
	runtime.LockOSThread() // the signal comes when the thread ends
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestDiskLow: with less than 1 GiB a node takes no records and says so, serves
// reads, and goes on by itself when there is room.
func TestDiskLow(t *testing.T) {
	t.Parallel()
	onSmallDisk(t, `
start; until_ok is healthy
submit before
leave 819200
until_ok is disk_low
submit refused 2>err && fail "a record was taken"
grep 'MiB free' err || fail "$(cat err)"
parley health >health 2>&1 && fail "ready on a low disk"
grep disk_low health || fail "$(cat health)"
parley tx history before | grep -q . || fail "no reads"
empty
until_ok is healthy
submit after
kill -INT $pid; ends 0

`)
}

// TestDiskFull: a disk that is full at once ends the process with one line, and
// it does not start before there is room. Then it has all that it acknowledged.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	onSmallDisk(t, `
start; until_ok is healthy
submit before
(i=0; while kill -0 $pid 2>/dev/null; do i=$((i+1)); submit load$i >>acked 2>/dev/null || true; done) & load=$!
sleep 1
fill
until_ok low
if kill -0 $pid 2>/dev/null; then # it saw that in time, and stopped writing
    kill -INT $pid; wait $pid || true
    echo "stopped writing in time"
else
    ends 1
    grep -E 'stopped the process|error:' log | tail -n 1
    grep -c '^goroutine ' log && fail "a trace instead of a line"
fi
wait $load || true
start; ends 1
tail -n 1 log | grep 'make room and start again'
empty
start; until_ok is healthy
submit after
kill -INT $pid; ends 0
`)
}

// TestDiskReadOnly: a data directory that can not be written is one clear error.
func TestDiskReadOnly(t *testing.T) {
	t.Parallel()
	onSmallDisk(t, `
start; until_ok is healthy
submit before
kill -INT $pid; ends 0
parley backup create --data-dir d/n --out d/b.tar.zst
mount -o remount,ro d
parley chain check d/n
mkdir tmp; TMPDIR=$PWD/tmp parley backup verify d/b.tar.zst
test -z "$(ls -A tmp)" || fail "a directory left"
: >log; start; ends 78
cat log
test $(grep -c . log) = 1 || fail "more than one line"
grep -q 'read-only' log
mount -o remount,rw d
start; until_ok is healthy
`)
}
