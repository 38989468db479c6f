package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

const (
	mendTime  = 90 * time.Second // for a node to be whole again
	toolLimit = time.Minute      // for a command of parley on a small directory
	damaged   = 4                // exit code of parley chain check
	pageSize  = 1000             // records of one answer
)

// flip damages a byte of the store of the node whose disk does not survive the
// round. The node mends it from its peers, or ends with exit code 78; never
// does it show other bytes than those of the chain.
func (r *round) flip(ctx context.Context) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return err
	}
	n := r.load.fragile
	file, err := r.flipStore(ctx, n)
	if err != nil || file == "" {
		return err
	}
	r.add(func(t *Totals) { t.Flipped++ })
	r.exits.allow(n, true)
	defer r.exits.allow(n, false)
	if err := n.start(ctx); err != nil {
		return err
	}
	how := r.reread(ctx, n)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if how == "" {
		if err := n.stop(); err != nil {
			r.miss("unclean stop after %s was damaged: %v", file, err)
		}
		code, text := r.tool(ctx, nil, "chain", "check", n.dir)
		if code == 0 {
			r.say("  %s of %s was damaged: it mended that, or nothing stood there", file, n.name)
			return n.start(ctx)
		}
		how = fmt.Sprintf("parley chain check ends with exit code %d: %s", code, text)
		if code != damaged {
			r.miss("%s of %s was damaged: %s", file, n.name, how)
		}
	}
	r.say("  %s of %s was damaged: %s", file, n.name, how)
	r.add(func(t *Totals) { t.Unmended++ })
	return r.replace(ctx, n)
}

// flipStore stops the node and flips a byte in one of its tables. Where it has
// none yet a start makes one of its log.
func (r *round) flipStore(ctx context.Context, n *node) (file string, err error) {
	for range 2 {
		n.await(ctx)
		if err := n.stop(); err != nil {
			r.miss("unclean stop: %v", err)
		}
		if file, err = flipByte(n.dir, "ledger/*.sst", r.rand); err != nil || file != "" {
			return file, err
		}
		if err := n.start(ctx); err != nil {
			return "", err
		}
	}
	return "", nil
}

// await returns when a node answers that may have just been started, or does
// not within mendTime: before that a SIGTERM ends it as it ends any process.
func (n *node) await(ctx context.Context) {
	for limit := time.Now().Add(mendTime); ctx.Err() == nil && time.Now().Before(limit); sleep(ctx, retryWait) {
		if _, err := n.status(ctx); err == nil {
			return
		}
	}
}

// flipByte changes one byte in a file of a glob in dir. file is "" where there
// is none.
func flipByte(dir, glob string, r *rand.Rand) (file string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil || len(files) == 0 {
		return "", err
	}
	path := files[r.IntN(len(files))]
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "", err
	}
	at := r.IntN(len(b))
	b[at] ^= byte(1 + r.IntN(255))
	return fmt.Sprintf("byte %d of %d in %s", at, len(b), filepath.Base(path)), os.WriteFile(path, b, 0o600)
}

// reread reads every block of a damaged node, until all are good. how tells
// why they never will be.
func (r *round) reread(ctx context.Context, n *node) (how string) {
	limit := time.Now().Add(mendTime)
	var last error
	for height := uint64(1); ctx.Err() == nil; {
		if code := r.exits.code(n); code == configExit {
			n.kill()
			if words := n.lastWords(); !strings.Contains(words, "restore a backup") {
				r.miss("%s ended with exit code 78 and does not say what to do: %s", n.name, words)
			}
			return "exit code 78"
		}
		err := n.readBlock(ctx, height)
		var wrong *wrongBytes
		switch {
		case errors.As(err, &wrong):
			r.miss("%s serves wrong bytes: %v", n.name, err)
			height++
		case errors.Is(err, errEnd) && height > r.watch.head()/2:
			return ""
		case err == nil:
			height++
			continue
		default:
			last = fmt.Errorf("block %d: %w", height, err)
		}
		if time.Now().After(limit) {
			r.miss("%s does not mend its store within %s: %v; exit code %d; %s", n.name, mendTime, last, r.exits.code(n), n.lastWords())
			return "not mended"
		}
		sleep(ctx, 200*time.Millisecond)
	}
	return ""
}

// errEnd: the chain ends below that height.
var errEnd = errors.New("no such block")

// wrongBytes are shown by a node and are not those of the chain.
type wrongBytes struct{ err error }

func (w *wrongBytes) Error() string { return w.err.Error() }

// readBlock reads a block and its records from the face, and holds all to the
// hash of the header.
func (n *node) readBlock(ctx context.Context, height uint64) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	var b parley.Block
	if status, err := n.get(ctx, fmt.Sprintf("chain/blocks/%d", height), &b); err != nil {
		if status == http.StatusNotFound {
			return errEnd
		}
		return err
	}
	var records [][]byte
	for next := ""; len(records) < b.RecordCount; {
		var page struct {
			Items []parley.Record `json:"items"`
			Next  *string         `json:"next_cursor"`
		}
		path := fmt.Sprintf("chain/blocks/%d/records?limit=%d&cursor=%s", height, pageSize, url.QueryEscape(next))
		if _, err := n.get(ctx, path, &page); err != nil {
			return err
		}
		for _, rec := range page.Items {
			raw, err := hex.DecodeString(rec.Raw)
			if err != nil || consortium.RecordID(raw) != rec.ID {
				return &wrongBytes{fmt.Errorf("block %d: record %s is not its bytes", height, rec.ID)}
			}
			records = append(records, raw)
		}
		if page.Next == nil || len(page.Items) == 0 {
			break
		}
		next = *page.Next
	}
	return checkBlock(&b, height, records)
}

// checkBlock tells whether records are the body that the header fixes.
func checkBlock(b *parley.Block, height uint64, records [][]byte) error {
	bad := func(err error) error { return &wrongBytes{fmt.Errorf("block %d: %w", height, err)} }
	raw, err := hex.DecodeString(b.Raw.Header)
	if err != nil {
		return bad(err)
	}
	h, err := consortium.DecodeHeader(raw)
	if err != nil {
		return bad(err)
	}
	if h.Height != height || h.Hash() != b.Hash {
		return bad(fmt.Errorf("its header is %d %s, it says %s", h.Height, h.Hash(), b.Hash))
	}
	var body consortium.Body
	for _, s := range b.Subtrees {
		if s.Records > len(records) {
			return bad(fmt.Errorf("%d records are missing", s.Records-len(records)))
		}
		body = append(body, consortium.Subtree{Records: records[:s.Records]})
		records = records[s.Records:]
	}
	if len(records) > 0 {
		return bad(fmt.Errorf("%d records more than its subtrees have", len(records)))
	}
	if err := consortium.CheckBody(h, body); err != nil {
		return bad(err)
	}
	return nil
}

// replace gives a node that does not run a new disk: an empty one, or what a
// backup of another node brings.
func (r *round) replace(ctx context.Context, n *node) error {
	if r.rand.IntN(2) == 0 {
		return r.renew(ctx, n)
	}
	return r.restore(ctx, n)
}

// lose kills the node whose disk does not survive the round, and restores a
// backup of another one in its place.
func (r *round) lose(ctx context.Context) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return err
	}
	r.kill(r.load.fragile)
	return r.restore(ctx, r.load.fragile)
}

// restore takes a backup of a running node and restores it for one that is
// killed.
func (r *round) restore(ctx context.Context, n *node) error {
	from := r.some(r.lab.nodes, 2)
	if from[0] == n {
		from = from[1:]
	}
	file := filepath.Join(r.dir, n.name+".tar.zst")
	defer os.Remove(file)
	if code, text := r.tool(ctx, []string{"PARLEY_NODE=unix:" + parley.SocketPath(from[0].dir)}, "backup", "create", "--out", file); code != 0 {
		r.miss("backup of %s: exit code %d: %s", from[0].name, code, text)
		return r.renew(ctx, n)
	}
	key, err := os.ReadFile(filepath.Join(n.dir, keyFile()))
	if err != nil {
		return fmt.Errorf("key of %s: %w", n.name, err)
	}
	if err := n.wipe(""); err != nil {
		return err
	}
	code, text := r.tool(ctx, nil, "backup", "restore", file, "--data-dir", n.dir, "--genesis", r.lab.genesis.String())
	if code != 0 {
		r.miss("restore for %s: exit code %d: %s", n.name, code, text)
	}
	if err := os.WriteFile(filepath.Join(n.dir, keyFile()), key, 0o600); err != nil {
		return fmt.Errorf("key of %s: %w", n.name, err)
	}
	r.add(func(t *Totals) { t.Restored++ })
	r.watch.forget(n)
	if err := n.start(ctx); err != nil {
		return err
	}
	return r.progress(ctx, time.Now())
}

// tool runs a command of parley. code is -1 where it did not come to its end.
func (r *round) tool(ctx context.Context, env []string, args ...string) (code int, text string) {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.lab.nodes[0].binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir}, env...)
	out, err := cmd.CombinedOutput()
	out = bytes.TrimSpace(out[max(0, len(out)-tailBytes):])
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}
