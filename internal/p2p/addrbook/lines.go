package addrbook

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxLine   = 16 << 10
	maxFaults = 10 // that Import tells of
)

// LineError is a line that Import left out.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// ImportError says which lines Import left out.
type ImportError struct {
	Lines   []*LineError // the first ten
	Refused int          // all of them
}

func (e *ImportError) Error() string {
	var b strings.Builder
	for i, l := range e.Lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "import addresses: %v", l)
	}
	if more := e.Refused - len(e.Lines); more > 0 {
		fmt.Fprintf(&b, "\nimport addresses: and %d more lines", more)
	}
	return b.String()
}

func (e *ImportError) Unwrap() []error {
	list := make([]error, len(e.Lines))
	for i, l := range e.Lines {
		list[i] = l
	}
	return list
}

func (e *ImportError) add(line int, err error) {
	if e.Refused++; len(e.Lines) < maxFaults {
		e.Lines = append(e.Lines, &LineError{line, err})
	}
}

// header is the first line of an export.
type header struct {
	Addrbook int    `json:"parley_addrbook"` // format, 1
	Net      string `json:"network"`
	Entries  int    `json:"entries"`
}

// Export writes the book as JSON lines: one that names the network, then an
// Entry each.
func (b *Book) Export(w io.Writer) error {
	all := b.Entries()
	b.mu.Lock()
	net := b.net
	b.mu.Unlock()
	enc := json.NewEncoder(w)
	if err := enc.Encode(header{Addrbook: 1, Net: net, Entries: len(all)}); err != nil {
		return fmt.Errorf("export addresses: %w", err)
	}
	for _, e := range all {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("export addresses: %w", err)
		}
	}
	return nil
}

// line is what Import reads of one line: whose it is and where. What the book
// that wrote it believed of the peer is not taken over: in tried is only whom
// this node reached itself.
type line struct {
	header
	ID     string   `json:"id"`
	Addrs  []string `json:"addresses"`
	Record *struct {
		Envelope []byte `json:"envelope"`
	} `json:"record"`
}

// told is one line, read.
type told struct {
	net      string // of a header
	info     peer.AddrInfo
	envelope []byte
}

// Import reads JSON lines as Export writes them, or of just
// {"id":…,"addresses":[…]}, and adds the peers to new as told by src; all come
// in only with a source that the operator chose. added counts the lines that
// were taken, known peers among them; this node's own line is left out in
// silence, and bad ones too, which is an
// *[ImportError]; a file of another network is refused whole.
func (b *Book) Import(r io.Reader, src Source) (added int, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	var bad ImportError
	n := 0
	for lines.Scan() {
		n++
		if len(lines.Bytes()) == 0 {
			continue
		}
		if n > 2*maxEntries {
			return added, fmt.Errorf("import addresses: more than %d lines", 2*maxEntries)
		}
		t, err := readLine(lines.Bytes())
		switch {
		case err != nil:
		case t.info.ID == "":
			if net := b.network(); net != "" && t.net != "" && t.net != net {
				return added, fmt.Errorf("import addresses: %w: the file is of %s, this node of %s", ErrOtherNetwork, t.net, net)
			}
			continue
		case t.envelope != nil:
			err = b.addLine(src, t)
		default:
			err = b.AddBare(src, t.info)
		}
		switch {
		case err == nil:
			added++
		case !errors.Is(err, ErrSelf): // the books of others have us
			bad.add(n, err)
		}
	}
	if err := lines.Err(); err != nil {
		bad.add(n+1, err)
	}
	if bad.Refused > 0 {
		return added, &bad
	}
	return added, nil
}

// addLine takes a signed record that a line says to be of a peer.
func (b *Book) addLine(src Source, t told) error {
	if k, err := verify(t.envelope, time.Now()); err == nil && k.id != t.info.ID {
		return b.refuse(fmt.Errorf("%w: it is of %s, the line of %s", ErrForged, k.id, t.info.ID))
	}
	return b.Add(src, t.envelope)
}

func (b *Book) network() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.net
}

// readLine reads one line of at most maxLine bytes.
func readLine(p []byte) (t told, err error) {
	var l line
	if err := json.Unmarshal(p, &l); err != nil {
		return t, err
	}
	if l.ID == "" && l.Addrbook != 0 {
		if l.Addrbook != 1 {
			return t, fmt.Errorf("format %d, this one knows 1", l.Addrbook)
		}
		return told{net: l.Net}, few(len(l.Net), maxNet, "bytes of network")
	}
	if t.info.ID, err = peer.Decode(l.ID); err != nil {
		return told{}, fmt.Errorf("id %q: %w", l.ID, err)
	}
	if l.Record != nil && len(l.Record.Envelope) > 0 {
		t.envelope = l.Record.Envelope
		return t, few(len(t.envelope), maxEnvelope, "bytes of record")
	}
	for _, s := range l.Addrs {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return told{}, fmt.Errorf("address %q: %w", s, err)
		}
		t.info.Addrs = append(t.info.Addrs, a)
	}
	if len(t.info.Addrs) == 0 {
		return told{}, fmt.Errorf("%s has no address", t.info.ID)
	}
	return t, nil
}
