package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/parley-p2p/parley/chain"
)

func TestFrameThroughSlowReaders(t *testing.T) {
	sizes := []int{0, 1, 127, 128, frameStep - 1, frameStep, frameStep + 1, 3 * frameStep, MaxSyncAnswer}
	readers := map[string]func(io.Reader) io.Reader{
		"plain":    func(r io.Reader) io.Reader { return r },
		"one byte": iotest.OneByteReader,
		"half":     iotest.HalfReader,
		"data+EOF": iotest.DataErrReader,
	}
	var stream bytes.Buffer
	var want [][]byte
	for i, n := range sizes {
		p := bytes.Repeat([]byte{byte('a' + i)}, n)
		want = append(want, p)
		if err := WriteFrame(&stream, p); err != nil {
			t.Fatal(err)
		}
	}
	for name, wrap := range readers {
		t.Run(name, func(t *testing.T) {
			r := wrap(bytes.NewReader(stream.Bytes()))
			for i, w := range want {
				got, err := ReadFrame(r, MaxSyncAnswer)
				if err != nil || !bytes.Equal(got, w) {
					t.Fatalf("frame %d: %d bytes, %v; want %d bytes", i, len(got), err, len(w))
				}
			}
			if _, err := ReadFrame(r, MaxSyncAnswer); !errors.Is(err, io.EOF) {
				t.Errorf("after the last frame: %v, want io.EOF", err)
			}
		})
	}
}

func TestReadFrameStopsAtItsEnd(t *testing.T) {
	r := strings.NewReader("\x03abcrest")
	if p, err := ReadFrame(r, 3); err != nil || string(p) != "abc" {
		t.Fatalf("%q, %v", p, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left %q, want %q", rest, "rest")
	}
}

func TestReadFrameFaults(t *testing.T) {
	long := append([]byte{0x80, 0x80, 0x08}, make([]byte, frameStep+5)...) // 131,072 bytes promised
	tests := []struct {
		name string
		in   []byte
		max  int
		want error
	}{
		{"nothing", nil, 10, io.EOF},
		{"cut in the length", []byte{0x80}, 1000, io.ErrUnexpectedEOF},
		{"cut after the length", []byte{5}, 10, io.ErrUnexpectedEOF},
		{"cut in the bytes", []byte{5, 1, 2}, 10, io.ErrUnexpectedEOF},
		{"cut at the second step", long, MaxSyncAnswer, io.ErrUnexpectedEOF},
		{"one over", []byte{11}, 10, ErrTooLarge},
		{"no frame at all allowed", []byte{1, 1}, 0, ErrTooLarge},
		{"negative limit", []byte{0}, -1, ErrTooLarge},
		{"63 bits", bytes.Repeat([]byte{0xff}, 8), math.MaxInt, io.ErrUnexpectedEOF},
		{"huge", append(bytes.Repeat([]byte{0xff}, 8), 0x7f), 10, ErrTooLarge},
		{"endless length", bytes.Repeat([]byte{0xff}, 20), 10, ErrMalformed},
		{"longer form of 1", []byte{0x81, 0}, 10, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ReadFrame(bytes.NewReader(tt.in), tt.max)
			if !errors.Is(err, tt.want) || p != nil {
				t.Errorf("%d bytes, %v; want %v", len(p), err, tt.want)
			}
			if errors.Is(tt.want, io.ErrUnexpectedEOF) && errors.Is(err, io.EOF) {
				t.Errorf("%v counts as a clean end", err)
			}
		})
	}
	if _, err := ReadFrame(iotest.ErrReader(io.ErrClosedPipe), 10); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error of the reader is lost: %v", err)
	}
}

// writes counts the calls of Write.
type writes int

func (w *writes) Write(p []byte) (int, error) { *w++; return len(p), nil }

func TestWriteFrameWritesOnce(t *testing.T) {
	var w writes
	if err := WriteFrame(&w, make([]byte, MaxSyncAnswer)); err != nil || w != 1 {
		t.Errorf("%d writes, %v", w, err)
	}
	r, pw := io.Pipe()
	r.Close()
	if err := WriteFrame(pw, []byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error of the writer is lost: %v", err)
	}
}

func TestFault(t *testing.T) {
	_, malformed := DecodeGoodbye([]byte{0xff})
	_, large := DecodeGoodbye(make([]byte, MaxGoodbye+1))
	_, cut := ReadFrame(strings.NewReader("\x05"), 10)
	for err, want := range map[error]chain.Offence{malformed: chain.Malformed, large: chain.Oversize, cut: ""} {
		var bad *chain.InvalidError
		if got := errors.As(Fault(err), &bad); got != (want != "") {
			t.Errorf("%v: invalid is %v", err, got)
		} else if got && bad.Offence != want {
			t.Errorf("%v: charged as %s, want %s", err, bad.Offence, want)
		}
	}
	if !errors.Is(Fault(cut), cut) || Fault(nil) != nil {
		t.Error("what is nobody's fault was changed")
	}
}

// allocated tells how many bytes f takes from the heap.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLyingLengthTakesLittleMemory(t *testing.T) {
	promise := []byte{0x80, 0x80, 0x20} // 524,288 bytes, none of which come
	got := allocated(func() {
		if _, err := ReadFrame(bytes.NewReader(promise), MaxSyncAnswer); err == nil {
			t.Error("no error")
		}
	})
	if got > frameStep+8<<10 {
		t.Errorf("%d bytes taken on the word of a length", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte("\x03abc"))
	f.Add([]byte{0x81, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Add(append([]byte{0x80, 0x01}, make([]byte, 128)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		r := bytes.NewReader(b)
		var p []byte
		var err error
		if n, most := allocated(func() { p, err = ReadFrame(iotest.HalfReader(r), limit) }), uint64(frameStep+16<<10+4*len(b)); n > most {
			t.Fatalf("%d bytes took %d bytes of memory, limit %d", len(b), n, most)
		}
		if err != nil {
			return
		}
		if len(p) > limit {
			t.Fatalf("%d bytes, limit %d", len(p), limit)
		}
		var again bytes.Buffer
		if err := WriteFrame(&again, p); err != nil {
			t.Fatal(err)
		}
		if read := b[:len(b)-r.Len()]; !bytes.Equal(again.Bytes(), read) {
			t.Fatalf("read %x, wrote %x", read, again.Bytes())
		}
	})
}

func BenchmarkReadFrame(b *testing.B) {
	for name, size := range map[string]int{"512B": 512, "512KiB": MaxSyncAnswer} {
		b.Run(name, func(b *testing.B) {
			var w bytes.Buffer
			if err := WriteFrame(&w, make([]byte, size)); err != nil {
				b.Fatal(err)
			}
			r := bytes.NewReader(nil)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				r.Reset(w.Bytes())
				if _, err := ReadFrame(r, MaxSyncAnswer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
