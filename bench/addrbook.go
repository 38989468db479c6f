package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	envelopes "github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// addrbookPlan says how full the address book is.
type addrbookPlan struct {
	Addresses int `json:"addresses"`
	Rounds    int `json:"rounds"`
	Ops       int `json:"ops"` // of a round
}

// addrbookRow is what the address book costs when it holds so many addresses,
// four of each peer, all in signed records. Times are CPU times.
type addrbookRow struct {
	Addresses  int     `json:"addresses"`
	Entries    int     `json:"entries"`
	EntryBytes float64 `json:"entry_bytes"` // of heap, with tables and indexes; the record is Record of them
	Record     int     `json:"record_bytes"`
	AddUS      figure  `json:"add_us"`    // a signed record of a newcomer
	VerifyUS   figure  `json:"verify_us"` // of it the signature, in the same rounds
	HearNS     figure  `json:"hear_ns"`   // bare addresses of a peer that is known
	PickNS     figure  `json:"pick_ns"`
	ReadMS     figure  `json:"read_ms"` // Open of its file
	FileMB     float64 `json:"file_mb"`
}

// stranger is a peer as another tells of it.
type stranger struct {
	src      addrbook.Source
	info     peer.AddrInfo
	envelope []byte
}

// newStranger signs a record for peer i of a world of 6,000 groups.
func newStranger(i int) (s stranger, err error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return s, err
	}
	if s.info.ID, err = peer.IDFromPrivateKey(key); err != nil {
		return s, err
	}
	v4 := netip.AddrFrom4([4]byte{byte(20 + i%6000/256), byte(i % 6000), byte(i / 6000), 1})
	v6 := netip.AddrFrom16([16]byte{0: 0x2a, 2: byte(i % 6000 / 256), 3: byte(i % 6000), 4: byte(i / 6000), 15: 1})
	for _, a := range []string{"/ip4/%s/tcp/9906", "/ip4/%s/udp/9906/quic-v1"} {
		s.info.Addrs = append(s.info.Addrs, ma.StringCast(fmt.Sprintf(a, v4)))
	}
	for _, a := range []string{"/ip6/%s/tcp/9906", "/ip6/%s/udp/9906/quic-v1"} {
		s.info.Addrs = append(s.info.Addrs, ma.StringCast(fmt.Sprintf(a, v6)))
	}
	env, err := envelopes.Seal(peer.PeerRecordFromAddrInfo(s.info), key)
	if err != nil {
		return s, err
	}
	// a source that the operator chose: it has no rate
	s.src = addrbook.Source{Kind: addrbook.Bootstrap, Peer: s.info.ID, IP: netip.AddrFrom4([4]byte{byte(50 + i%997/256), byte(i % 997), 1, 1})}
	s.envelope, err = env.Marshal()
	return s, err
}

func strangers(from, n int) (all []stranger, err error) {
	for i := from; i < from+n; i++ {
		s, err := newStranger(i)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// measureAddrbook fills the row of section addrbook.
func (b *bench) measureAddrbook(ctx context.Context, r *report) error {
	row, err := measureAddrbook(ctx, filepath.Join(b.dir, "addrbook"), r.Plan.Addrbook)
	if err == nil {
		r.Addrbook = row
	}
	return err
}

func measureAddrbook(ctx context.Context, dir string, p addrbookPlan) (*addrbookRow, error) {
	row := &addrbookRow{}
	book, err := addrbook.Open(addrbook.Config{Dir: dir}, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	all, err := strangers(0, p.Addresses/4*5/3) // two in five find their slot taken
	if err != nil {
		return nil, err
	}
	row.Record = len(all[0].envelope)
	before := heap()
	for _, s := range all {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if row.Entries*4 >= p.Addresses {
			break
		}
		switch err := book.Add(s.src, s.envelope); {
		case err == nil:
			row.Entries++
		case !errors.Is(err, addrbook.ErrFull):
			return nil, err
		}
	}
	row.EntryBytes = float64(heap()-before) / float64(row.Entries)
	row.Addresses = row.Entries * 4
	for round := range p.Rounds {
		if err := row.round(ctx, book, all, p.Ops, 1<<18+round*p.Ops); err != nil {
			return nil, err
		}
	}
	return row, row.file(ctx, book, dir, p.Rounds)
}

// round measures each operation some times.
func (r *addrbookRow) round(ctx context.Context, book *addrbook.Book, all []stranger, ops, from int) error {
	comers, err := strangers(from, ops)
	if err != nil {
		return err
	}
	each := func(f *figure, unit time.Duration, do func(i int) error) error {
		begin := cpuTime()
		for i := range ops {
			if err := do(i); err != nil && !errors.Is(err, addrbook.ErrFull) {
				return err
			}
		}
		f.add(float64(cpuTime()-begin) / float64(unit) / float64(ops))
		return ctx.Err()
	}
	return errors.Join(
		each(&r.VerifyUS, time.Microsecond, func(i int) error {
			_, err := envelopes.ConsumeTypedEnvelope(comers[i].envelope, &peer.PeerRecord{})
			return err
		}),
		each(&r.AddUS, time.Microsecond, func(i int) error { return book.Add(comers[i].src, comers[i].envelope) }),
		each(&r.HearNS, time.Nanosecond, func(i int) error { return book.AddBare(all[i].src, all[i].info) }),
		each(&r.PickNS, time.Nanosecond, func(int) error {
			if _, ok := book.Pick(addrbook.PickOptions{}); !ok {
				return errors.New("nobody is picked of a full book")
			}
			return nil
		}),
	)
}

// file measures a start with the whole book.
func (r *addrbookRow) file(ctx context.Context, book *addrbook.Book, dir string, rounds int) error {
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := book.Run(stopped); err != nil { // saves at its end
		return err
	}
	f, err := os.Stat(filepath.Join(dir, "book.bin"))
	if err != nil {
		return err
	}
	r.FileMB = sixDigits(float64(f.Size()) / 1e6)
	for range rounds {
		begin := cpuTime()
		if _, err := addrbook.Open(addrbook.Config{Dir: dir}, nil, nil, nil); err != nil {
			return err
		}
		r.ReadMS.add(float64(cpuTime()-begin) / float64(time.Millisecond))
	}
	return nil
}

// heap is what is live after a collection, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// addrbookTable is the result for people.
func (r *report) addrbookTable() string {
	a := r.Addrbook
	if a == nil {
		return ""
	}
	var b strings.Builder
	line := func(text, cell string) { b.WriteString(pad(text, 47, false) + pad(cell, 24, true) + "\n") }
	line("address book", number(float64(a.Addresses))+" addresses")
	b.WriteString(strings.Repeat("─", 71) + "\n")
	line("peers, four addresses each", number(float64(a.Entries)))
	line("heap a peer, bytes", number(a.EntryBytes))
	line("  of it the signed record", number(float64(a.Record)))
	line("add a signed record, CPU us", a.AddUS.text())
	line("  of it the signature", a.VerifyUS.text())
	line("add bare addresses of a known peer, CPU ns", a.HearNS.text())
	line("pick, CPU ns", a.PickNS.text())
	line("open the file, CPU ms", a.ReadMS.text())
	line("  MB", number(a.FileMB))
	return b.String()
}
