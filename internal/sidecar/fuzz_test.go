package sidecar

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// said is a stream on which a peer has said all that it will.
type said struct {
	io.Reader
	bytes.Buffer // what we say
}

func say(b []byte) *said { return &said{Reader: bytes.NewReader(b)} }

func (s *said) Read(b []byte) (int, error)     { return s.Reader.Read(b) }
func (*said) Peer() peer.ID                    { return "peer" }
func (*said) CloseWrite() error                { return nil }
func (*said) Close() error                     { return nil }
func (*said) Reset() error                     { return nil }
func (*said) SetDeadline(time.Time) error      { return nil }
func (*said) SetReadDeadline(time.Time) error  { return nil }
func (*said) SetWriteDeadline(time.Time) error { return nil }

// little fails where f takes more memory than what a peer said can stand for.
func little(t *testing.T, said []byte, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(256<<10+32*len(said)); n > limit {
		t.Errorf("%d bytes took %d bytes of memory, limit %d", len(said), n, limit)
	}
}

// FuzzAnswer: whatever a peer says on a protocol of the program, it is answered
// with one frame, or it is at fault.
func FuzzAnswer(f *testing.F) {
	log := slog.New(slog.DiscardHandler)
	s, err := New(Config{NetworkName: "main"}, event.NewBus(16), log, nil)
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := wire.WriteFrame(&b, wire.AppRequest{Data: []byte("which block?")}.Encode()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		st := say(b)
		little(t, b, func() { err = s.answerer("blocks")(t.Context(), st) })
		var bad *chain.InvalidError
		if err != nil {
			if !errors.As(err, &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || st.Len() > 0 {
				t.Fatalf("nobody's fault, or %d bytes before it: %v", st.Len(), err)
			}
			return
		}
		p, err := wire.ReadFrame(&st.Buffer, wire.MaxAppAnswer)
		if err != nil {
			t.Fatalf("the answer: %v", err)
		}
		if a, err := wire.DecodeAppAnswer(p); err != nil || !a.Last || a.Error == "" || st.Len() > 0 {
			t.Fatalf("the answer without a program: %+v, %v, and %d bytes behind it", a, err, st.Len())
		}
	})
}

// FuzzExchange: whatever a peer answers to the program, what is taken of it is
// no more than what it said, and a broken answer is its fault or an end.
func FuzzExchange(f *testing.F) {
	frames := func(answers ...wire.AppAnswer) []byte {
		var b bytes.Buffer
		for _, a := range answers {
			if err := wire.WriteFrame(&b, a.Encode()); err != nil {
				f.Fatal(err)
			}
		}
		return b.Bytes()
	}
	f.Add(frames(wire.AppAnswer{Data: []byte("a")}, wire.AppAnswer{Data: []byte("b"), Last: true}))
	f.Add(frames(wire.AppAnswer{Data: []byte("a")}))
	f.Add(frames(wire.AppAnswer{Error: "no", Last: true}))
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		taken := 0
		var err error
		little(t, b, func() {
			err = exchange(say(b), []byte("which block?"), func(p []byte) error {
				taken += len(p)
				return nil
			})
		})
		if taken > len(b) {
			t.Fatalf("%d bytes were taken of %d", taken, len(b))
		}
		var bad *chain.InvalidError
		var answered *AnswerError
		if err != nil && !errors.As(wire.Fault(err), &bad) && !errors.As(err, &answered) && !errors.Is(err, ErrCutOff) {
			t.Fatalf("nobody's fault: %v", err)
		}
	})
}
