package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

const (
	batchLines = 512          // lines of one request
	batchBytes = 4<<20 - 1024 // of one request; the API takes 4 MiB
	inFlight   = 6            // requests at once; a node works on 256 lines of each, and takes 2,000 pending ones of one author
	maxLine    = 1 << 20      // bytes; a record is smaller by far
	nonceBits  = 53           // whole in every JSON reader
)

func loadCommand(g *globals) *cobra.Command {
	ack := ""
	c := &cobra.Command{
		Use: "load FILE.jsonl|-", Short: "Write many records, one JSON object a line", Args: cobra.ExactArgs(1),
		Long: "A line is {\"subject\":\"…\", …}: the record's body is the line's other keys as they stand. The node signs with its key.\n" +
			"A file may be loaded again, after a fault too: what is there already is not written twice.",
		Example: "parley tx load records.jsonl",
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkAck(ack); err != nil {
				return usage(c, err)
			}
			return g.loadFile(c.Context(), args[0], ack)
		},
	}
	ackFlag(c, &ack)
	return c
}

func (g *globals) loadFile(ctx context.Context, name, ack string) error {
	r, total := g.in, int64(0)
	if name != "-" {
		f, err := openFile(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		r, total = f, info.Size()
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	l := newLoader(c, total, ack)
	if l.before, err = c.height(ctx, g.timeout); err != nil {
		return err
	}
	err = l.run(ctx, r, newBar(g))
	return l.finish(g, err)
}

// height is where the chain stands: what is committed up to there was not
// written by us.
func (c *client) height(ctx context.Context, timeout time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := c.get(ctx, "chain/head")
	if err != nil {
		return 0, err
	}
	h, err := decode[struct {
		Height uint64 `json:"height"`
	}](body)
	return h.Height, err
}

// line is one line of the file, on its way.
type line struct {
	number int
	size   int // bytes in the file
	draft  []byte
}

// loader writes the lines of a file to a node.
type loader struct {
	client *client
	total  int64  // bytes of the file, 0 = unknown
	ack    string // how far each record must have come
	before uint64 // height of the chain at the start
	sum    summary

	seen map[uint64]struct{} // nonces; reader goroutine only

	mu   sync.Mutex // guards sum, read
	read int64      // bytes of the lines that are done
}

func newLoader(c *client, total int64, ack string) *loader {
	return &loader{client: c, total: total, ack: ack, seen: map[uint64]struct{}{}, sum: newSummary()}
}

// run reads, sends and shows, until all is done or a fault that trying again
// does not mend.
func (l *loader) run(ctx context.Context, r io.Reader, b *bar) error {
	batches := make(chan []line)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(batches)
		return l.split(gctx, r, batches)
	})
	for range inFlight {
		g.Go(func() error {
			for batch := range batches {
				if err := l.deliver(gctx, batch); err != nil {
					return err
				}
			}
			return nil
		})
	}
	stop := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() { l.display(b, stop) })
	err := g.Wait()
	close(stop)
	shown.Wait()
	return err
}

// split makes batches of the lines.
func (l *loader) split(ctx context.Context, r io.Reader, batches chan<- []line) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var batch []line
	size := 0
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		select {
		case batches <- batch:
			batch, size = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for number := 1; ; number++ {
		text, n, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if ready, ok := l.prepare(number, text, n); ok {
			if len(batch) == batchLines || size+len(ready.draft)+1 > batchBytes {
				if err := send(); err != nil {
					return err
				}
			}
			batch = append(batch, ready)
			size += len(ready.draft) + 1
		}
		if err != nil {
			return send()
		}
	}
}

// readLine returns a line without its end and its size in the file. Of a line
// that is too long it returns a part that is too long, too.
func readLine(in *bufio.Reader) (text []byte, size int, err error) {
	for {
		part, err := in.ReadSlice('\n')
		size += len(part)
		if len(text) <= maxLine {
			text = append(text, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(text), size, err
		}
	}
}

// prepare makes a line's request, or counts it as what else it is.
func (l *loader) prepare(number int, text []byte, size int) (line, bool) {
	if len(text) == 0 {
		l.done(size, nil)
		return line{}, false
	}
	draft, nonce, err := draftOf(text)
	if err != nil {
		l.done(size, func(s *summary) { s.refuse(number, err.Error()) })
		return line{}, false
	}
	if _, twice := l.seen[nonce]; twice {
		l.done(size, func(s *summary) { s.Known++ })
		return line{}, false
	}
	l.seen[nonce] = struct{}{}
	return line{number, size, draft}, true
}

// done counts a line that needs no more work.
func (l *loader) done(size int, count func(*summary)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read += int64(size)
	if count != nil {
		l.sum.Lines++
		count(&l.sum)
	}
}

// draftOf makes a record's request of a line: the subject, and a body of the
// other keys as they stand. The nonce is made from the line, so that one line
// is one record however often it is loaded.
func draftOf(text []byte) (draft []byte, nonce uint64, err error) {
	if len(text) > maxLine {
		return nil, 0, fmt.Errorf("the line is longer than %d bytes", maxLine)
	}
	if !json.Valid(text) {
		var v any
		return nil, 0, fmt.Errorf("no JSON: %w", json.Unmarshal(text, &v))
	}
	if text[0] != '{' {
		return nil, 0, errors.New(`want an object like {"subject":"…", …}`)
	}
	subject, body, err := cutSubject(text)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.Sum256(text)
	nonce = binary.BigEndian.Uint64(sum[:8]) >> (64 - nonceBits)
	return fmt.Appendf(nil, `{"subject":%s,"media_type":%q,"nonce":%d,"body":%s}`, subject, jsonMedia, nonce, body), nonce, nil
}

// cutSubject takes the subject out of a valid JSON object and leaves the other
// keys as they stand.
func cutSubject(text []byte) (subject, rest []byte, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	rest = []byte{'{'}
	for d.More() {
		from := d.InputOffset()
		key, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		if key == "subject" {
			if subject != nil {
				return nil, nil, errors.New("it has two subjects")
			}
			subject = value
			continue
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(rest, bytes.TrimLeft(text[from:d.InputOffset()], ", \t\r")...)
	}
	if subject == nil {
		return nil, nil, errors.New(`it has no key "subject"`)
	}
	if subject[0] != '"' {
		return nil, nil, fmt.Errorf("subject %s: want a string", subject[:min(len(subject), 40)])
	}
	return subject, append(rest, '}'), nil
}
