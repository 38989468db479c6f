package parley

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// BookEntry is what the address book knows of one peer.
type BookEntry struct {
	ID        peer.ID      `json:"id"`
	Addresses []string     `json:"addresses"`
	Group     string       `json:"group"`
	Table     string       `json:"table"`                // new | tried
	Sources   []BookSource `json:"sources"`              // who told of it, the first one first
	RecordSeq string       `json:"record_seq,omitempty"` // of its signed record, decimal; absent = it has none
	FirstSeen time.Time    `json:"first_seen,omitzero"`
	LastSeen  time.Time    `json:"last_seen,omitzero"` // connected; or only heard of, where first_good is absent
	LastTry   time.Time    `json:"last_try,omitzero"`
	LastGood  time.Time    `json:"last_good,omitzero"`
	FirstGood time.Time    `json:"first_good,omitzero"`
	Fails     int          `json:"fails"` // since the last success
	Class     string       `json:"class,omitempty"`
	NotBefore time.Time    `json:"not_before,omitzero"` // is not dialled before
	Anchor    bool         `json:"anchor"`
	Banned    bool         `json:"banned"`
	Connected bool         `json:"connected"`
}

// BookSource is who told of a peer, from where, and the group of that place.
type BookSource struct {
	Kind  string  `json:"kind"`
	Peer  peer.ID `json:"peer,omitempty"`
	IP    string  `json:"ip,omitempty"`
	Group string  `json:"group,omitempty"`
}

// BookFilter selects entries of the address book; the zero value is all of them.
type BookFilter struct {
	Table  string // new | tried
	Source string // a kind
	Group  string
	Q      string // part of an id or an address
	After  string // cursor of the page before
	Limit  int    // 0 = no limit
}

// AddressBook lists entries of the address book, tried ones first, each table
// in the order of ids. next is the cursor of the page that follows, "" at the
// end. A cursor that is none is [ErrBadRange].
func (n *Node) AddressBook(f BookFilter) (list []BookEntry, next string, err error) {
	const chunk = 1024 // of the book at once
	after, err := parseBookCursor(f.After)
	if err != nil {
		return nil, "", err
	}
	list = []BookEntry{}
	q := addrbook.Query{Table: addrbook.Table(f.Table), Group: f.Group, Source: addrbook.Kind(f.Source)}
	size := chunk
	if f.Q == "" && f.Limit > 0 {
		size = min(chunk, f.Limit+1)
	}
	for {
		entries := n.book.Page(q, after, size)
		for _, e := range entries {
			switch {
			case !f.matches(e):
			case f.Limit > 0 && len(list) == f.Limit:
				last := list[len(list)-1]
				return list, last.Table + "." + last.ID.String(), nil
			default:
				list = append(list, n.viewEntry(e))
			}
		}
		if len(entries) < size {
			return list, "", nil
		}
		last := entries[size-1]
		after = &addrbook.Place{Table: last.Table, ID: last.ID}
	}
}

// parseBookCursor reads the place of the last entry of a page, nil = there was
// none.
func parseBookCursor(text string) (*addrbook.Place, error) {
	if text == "" {
		return nil, nil
	}
	table, id, _ := strings.Cut(text, ".")
	p := addrbook.Place{Table: addrbook.Table(table)}
	err := errors.New("no such table")
	if p.Table == addrbook.New || p.Table == addrbook.Tried {
		p.ID, err = peer.Decode(id)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: cursor %.80q: want the next_cursor of a page of this list", ErrBadRange, text)
	}
	return &p, nil
}

// matches looks for the text; the rest is the book's to look at.
func (f BookFilter) matches(e addrbook.Entry) bool {
	q := strings.ToLower(f.Q)
	return q == "" || strings.Contains(strings.ToLower(e.ID.String()), q) ||
		slices.ContainsFunc(e.Addrs, func(a multiaddr.Multiaddr) bool { return strings.Contains(a.String(), q) })
}

func (n *Node) viewEntry(e addrbook.Entry) BookEntry {
	_, connected := n.shake.Peer(e.ID)
	v := BookEntry{
		ID: e.ID, Addresses: texts(e.Addrs), Group: e.Group, Table: string(e.Table), Sources: make([]BookSource, len(e.Sources)),
		FirstSeen: e.FirstSeen, LastSeen: e.LastSeen, LastTry: e.LastTry, LastGood: e.LastGood, FirstGood: e.FirstGood,
		Fails: e.Fails, Class: e.Class, NotBefore: e.NotBefore, Anchor: e.Anchor, Banned: n.book.Banned(e), Connected: connected,
	}
	for i, s := range e.Sources {
		v.Sources[i] = BookSource{Kind: string(s.Kind), Peer: s.Peer}
		if s.IP.IsValid() {
			v.Sources[i].IP, v.Sources[i].Group = s.IP.String(), n.book.GroupOf(s.IP)
		}
	}
	if e.Record != nil {
		v.RecordSeq = strconv.FormatUint(e.Record.Seq, 10)
	}
	return v
}

// ExportAddresses writes the address book as JSON lines, with the signed
// records: what [Node.ImportAddresses] reads.
func (n *Node) ExportAddresses(w io.Writer) error { return n.book.Export(w) }

// ImportedAddresses tells what an import did.
type ImportedAddresses struct {
	Added        int           `json:"added"`         // lines that were taken, of peers that were known already too
	Refused      []RefusedLine `json:"refused"`       // the first ten
	RefusedLines int           `json:"refused_lines"` // all of them
	Known        int           `json:"known"`         // peers in the book now
}

// RefusedLine is a line that was left out, from 1.
type RefusedLine = reputation.RefusedLine

// ImportAddresses adds the peers of JSON lines to the address book, as told by
// the operator: signed records are verified, and the peers are to be dialled
// before anything is believed of them. Bad lines are left out and told. A file
// of another network is [ErrBadImport].
func (n *Node) ImportAddresses(r io.Reader) (ImportedAddresses, error) {
	added, err := n.book.Import(r, addrbook.Source{Kind: addrbook.Operator})
	out := ImportedAddresses{Added: added, Refused: []RefusedLine{}}
	var bad *addrbook.ImportError
	switch {
	case errors.As(err, &bad):
		out.RefusedLines = bad.Refused
		for _, l := range bad.Lines {
			out.Refused = append(out.Refused, RefusedLine{Line: l.Line, Why: l.Err.Error()})
		}
	case err != nil:
		return out, fmt.Errorf("%w: %w", ErrBadImport, err)
	}
	out.Known = n.book.Len()
	return out, nil
}

// ErrBadImport is a file of addresses that is refused whole.
var ErrBadImport = errors.New("bad file of addresses")

// hostPort is an address as people write it, "" where it has no host and port.
func hostPort(a multiaddr.Multiaddr) string {
	_, text, err := manet.DialArgs(a)
	if err != nil {
		return ""
	}
	return text
}

// asnOf reads the group of a peer that an AS map names; nil = it is no AS.
func asnOf(group string) *uint32 {
	text, ok := strings.CutPrefix(group, "as:")
	if !ok {
		return nil
	}
	asn, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil
	}
	as := uint32(asn)
	return &as
}
