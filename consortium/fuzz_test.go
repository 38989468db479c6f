package consortium

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
)

// fuzzCanonical demands of a decoder that it accepts only what its encoder
// makes and takes memory in proportion to its input.
func fuzzCanonical[T any](f *testing.F, seeds [][]byte, decode func([]byte) (T, error), encode func(T) []byte) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(s[:len(s)/2])
		f.Add(append(bytes.Clone(s), 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v, err := decode(b)
		runtime.ReadMemStats(&after)
		if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(256<<10+64*len(b)); n > limit {
			t.Errorf("%d bytes of input took %d bytes of memory, limit %d", len(b), n, limit)
		}
		if err == nil && !bytes.Equal(encode(v), b) {
			t.Errorf("not canonical: %x decodes and encodes to %x", b, encode(v))
		}
	})
}

func FuzzRecord(f *testing.F) {
	fuzzCanonical(f, seeds("record/"), func(b []byte) (*Record, error) {
		r, err := DecodeRecord(b)
		if _, ok := errors.AsType[*RecordError](err); err != nil && !ok {
			panic(err) // the contract: every error is a *RecordError
		}
		return r, err
	}, (*Record).Encode)
}

func FuzzHeader(f *testing.F) {
	fuzzCanonical(f, seeds("header/"), DecodeHeader, (*Header).Encode)
}

func FuzzCertificate(f *testing.F) {
	fuzzCanonical(f, seeds("certificate/"), DecodeCertificate, Certificate.Encode)
}

func FuzzBody(f *testing.F) {
	fuzzCanonical(f, seeds("body/"), func(b []byte) (Body, error) { return DecodeBody(b, MaxBlockBytes) }, EncodeBody)
}

func FuzzConfig(f *testing.F) {
	fuzzCanonical(f, seeds("config/"), DecodeConfig, (*Config).Encode)
}

func FuzzConfigChange(f *testing.F) {
	fuzzCanonical(f, seeds("change"), DecodeConfigChange, (*ConfigChange).Encode)
}

func FuzzGenesis(f *testing.F) {
	fuzzCanonical(f, seeds("genesis/"), DecodeGenesis, (*Genesis).Encode)
}

// FuzzGenesisJSON demands that what is read is written back with the same hash.
func FuzzGenesisJSON(f *testing.F) {
	for _, n := range []int{1, 4} {
		b, err := sampleGenesis(n).MarshalJSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGenesisJSON(b)
		if err != nil {
			return
		}
		view, err := g.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseGenesisJSON(view)
		if err != nil || again.Hash() != g.Hash() {
			t.Errorf("%s is read as %s: %v", b, view, err)
		}
	})
}

// TestNoMemoryForLengths gives decoders counts that nothing stands behind.
func TestNoMemoryForLengths(t *testing.T) {
	for name, c := range map[string]struct {
		decode func([]byte) error
		raw    []byte
	}{
		"body subtrees":     {func(b []byte) error { _, err := DecodeBody(b, MaxBlockBytes); return err }, []byte{0xff, 0xff}},
		"body records":      {func(b []byte) error { _, err := DecodeBody(b, MaxBlockBytes); return err }, append([]byte{0, 1, 0xff, 0xff}, make([]byte, 200)...)},
		"body record":       {func(b []byte) error { _, err := DecodeBody(b, MaxBlockBytes); return err }, append([]byte{0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff}, make([]byte, 200)...)},
		"certificate":       {func(b []byte) error { _, err := DecodeCertificate(b); return err }, []byte{0xff, 0xff}},
		"config validators": {func(b []byte) error { _, err := DecodeConfig(b); return err }, append(make([]byte, 16), 0xff, 0xff)},
		"config authors":    {func(b []byte) error { _, err := DecodeConfig(b); return err }, append(make([]byte, 16+2+1+2), 0xff, 0xff, 0xff, 0xff)},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := c.decode(c.raw)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("accepted")
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
				t.Errorf("took %d bytes of memory", n)
			}
		})
	}
}
