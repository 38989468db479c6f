package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

const (
	writers     = 8   // of the closed loop, each with a key of its own
	batchLines  = 256 // records of a writer under way
	openPace    = 200 // records a second of the open loop
	retryAfter  = 20 * time.Millisecond
	loadLimit   = 3 * time.Minute // for one round
	maxLine     = 1 << 20         // bytes of one answer
	mediaBinary = "application/octet-stream"
	committed   = `"status":"committed"`
)

// record is one signed record, and the line that submits it.
type record struct {
	raw  []byte
	id   chain.Hash
	line []byte
}

// signer makes records of several authors, signed before any clock starts.
type signer struct {
	genesis chain.Hash
	body    int // bytes
	keys    []ed25519.PrivateKey
	nonce   atomic.Uint64
}

func newSigner(genesis chain.Hash, body int) (*signer, error) {
	s := &signer{genesis: genesis, body: body}
	for range writers {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// sign makes n records, on all processors; authors take turns.
func (s *signer) sign(n int) []record {
	list := make([]record, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				list[i] = s.one(s.keys[i%len(s.keys)])
			}
		})
	}
	wg.Wait()
	return list
}

func (s *signer) one(key ed25519.PrivateKey) record {
	nonce := s.nonce.Add(1)
	body := make([]byte, s.body)
	_, _ = rand.Read(body) // never fails
	r := &consortium.Record{Nonce: nonce, Subject: fmt.Sprintf("bench/%02d", nonce%100), MediaType: mediaBinary, Body: body}
	r.Sign(key, s.genesis)
	raw := r.Encode()
	line := append(hex.AppendEncode([]byte(`{"raw":"`), raw), '"', '}', '\n')
	return record{raw: raw, id: consortium.RecordID(raw), line: line}
}

// closedLoop writes all records by the batch route, each writer at one node,
// and returns when each is committed. later counts the answers "not now".
func (l *lab) closedLoop(ctx context.Context, records []record) (took time.Duration, later int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	work := make([][]record, writers)
	for i, r := range records { // authors and writers fit
		work[i%writers] = append(work[i%writers], r)
	}
	var pushed atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for i, own := range work {
		g.Go(func() error {
			for batch := range slices.Chunk(own, batchLines) {
				n, err := l.batch(ctx, i%len(l.nodes), batch)
				pushed.Add(int64(n))
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return time.Since(begin), pushed.Load(), err
}

// batch submits records until each is committed.
func (l *lab) batch(ctx context.Context, node int, records []record) (later int, err error) {
	for {
		left, err := l.post(ctx, node, records)
		if err != nil || len(left) == 0 {
			return later, err
		}
		later += len(left)
		records = left
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return later, fmt.Errorf("%d records are not committed: %w", len(left), ctx.Err())
		}
	}
}

// post submits records once and returns those to be sent again.
func (l *lab) post(ctx context.Context, node int, records []record) (left []record, err error) {
	var body bytes.Buffer
	for _, r := range records {
		body.Write(r.line)
	}
	res, err := l.do(ctx, node, http.MethodPost, "records/batch?ack=committed&timeout=30s", &body, "application/x-ndjson")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	i := 0
	for ; lines.Scan(); i++ {
		if i >= len(records) {
			return nil, fmt.Errorf("%s gave more answers than the %d records of a batch", l.nodes[node].Name, len(records))
		}
		if bytes.Contains(lines.Bytes(), []byte(committed)) {
			continue
		}
		if !later(lines.Bytes()) {
			return nil, fmt.Errorf("%s refused a record: %s", l.nodes[node].Name, clip(lines.Bytes()))
		}
		left = append(left, records[i])
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read answers of %s: %w", l.nodes[node].Name, err)
	}
	return append(left, records[i:]...), nil
}

// later tells an answer after which trying again helps.
func later(line []byte) bool {
	var a struct {
		Status json.RawMessage `json:"status"` // a word of a record, a number of a problem
	}
	if json.Unmarshal(line, &a) != nil {
		return false
	}
	switch string(a.Status) {
	case `"pending"`, "429", "503":
		return true
	}
	return false
}

// openLoop submits each record when it is due, whether or not others have
// been answered, at the nodes in turn. A latency counts from when the record
// was due to when the node asked has it in a block on disk. In ms.
func (l *lab) openLoop(ctx context.Context, records []record) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	took := make([]float64, len(records))
	g, sending := errgroup.WithContext(ctx)
	begin := time.Now()
	for i, r := range records {
		due := begin.Add(time.Duration(i) * time.Second / openPace)
		select {
		case <-time.After(time.Until(due)):
		case <-sending.Done():
		}
		if sending.Err() != nil {
			break
		}
		g.Go(func() error {
			err := l.submit(sending, i%len(l.nodes), r)
			took[i] = ms(time.Since(due))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return took, ctx.Err()
}

// submit has a record committed. A node that cannot take it now says so, and
// the next one is asked, as a client would.
func (l *lab) submit(ctx context.Context, node int, r record) error {
	for {
		b, status, err := l.offer(ctx, node, r)
		switch {
		case err != nil:
			return err
		case bytes.Contains(b, []byte(committed)):
			return nil
		case status != http.StatusServiceUnavailable:
			return fmt.Errorf("%s did not commit a record: %s", l.nodes[node].Name, clip(b))
		}
		node = (node + 1) % len(l.nodes)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (l *lab) offer(ctx context.Context, node int, r record) (answer []byte, status int, err error) {
	res, err := l.do(ctx, node, http.MethodPost, "records?ack=committed&timeout=30s", bytes.NewBuffer(r.line), "application/json")
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxLine))
	if err != nil {
		return nil, 0, fmt.Errorf("read answer of %s: %w", l.nodes[node].Name, err)
	}
	return b, res.StatusCode, nil
}

func clip(b []byte) string {
	const most = 300
	return strings.TrimSpace(string(b[:min(len(b), most)]))
}
