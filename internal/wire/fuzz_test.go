package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// fuzz feeds one decoder. What it accepts must survive encoding and decoding
// unchanged and in no more bytes; what it refuses must be the sender's fault.
func fuzz(f *testing.F, name string) {
	var m message
	for _, m = range messages(f) {
		if m.name == name {
			break
		}
	}
	if m.name != name {
		f.Fatalf("no message %s", name)
	}
	f.Add([]byte{})
	if len(m.full) <= 16<<10 { // larger seeds only slow the mutator down
		f.Add(m.full)
		f.Add(m.full[:len(m.full)/2])
	}
	f.Add([]byte{0x08, 0x01, 0x10, 0x02, 0x18, 0x03})
	f.Add([]byte{0x1a, 0x01, 0x07, 0xfa, 0x3f, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v any
		var enc []byte
		var err error
		// Decoding and encoding of what was read, and nothing by a length alone.
		if n, limit := allocated(func() { v, enc, err = m.decode(b) }), uint64(64<<10+64*len(b)); n > limit {
			t.Fatalf("%d bytes took %d bytes of memory, limit %d", len(b), n, limit)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("fault of nobody: %v", err)
			}
			return
		}
		if len(enc) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(enc))
		}
		w, again, err := m.decode(enc)
		if err != nil || !reflect.DeepEqual(v, w) || !bytes.Equal(enc, again) {
			t.Fatalf("%+v became %+v, %v", v, w, err)
		}
	})
}

func FuzzVersion(f *testing.F)           { fuzz(f, "Version") }
func FuzzVerack(f *testing.F)            { fuzz(f, "Verack") }
func FuzzGoodbye(f *testing.F)           { fuzz(f, "Goodbye") }
func FuzzClaim(f *testing.F)             { fuzz(f, "Claim") }
func FuzzSubtree(f *testing.F)           { fuzz(f, "Subtree") }
func FuzzMiningOn(f *testing.F)          { fuzz(f, "MiningOn") }
func FuzzRejectedTx(f *testing.F)        { fuzz(f, "RejectedTx") }
func FuzzBestBlock(f *testing.F)         { fuzz(f, "BestBlock") }
func FuzzNodeStatus(f *testing.F)        { fuzz(f, "NodeStatus") }
func FuzzBlockAnnouncement(f *testing.F) { fuzz(f, "BlockAnnouncement") }
func FuzzOffer(f *testing.F)             { fuzz(f, "Offer") }
func FuzzWant(f *testing.F)              { fuzz(f, "Want") }
func FuzzSyncRequest(f *testing.F)       { fuzz(f, "SyncRequest") }
func FuzzHeaderAnswer(f *testing.F)      { fuzz(f, "HeaderAnswer") }
func FuzzSubtreeAnswer(f *testing.F)     { fuzz(f, "SubtreeAnswer") }
func FuzzConfigAnswer(f *testing.F)      { fuzz(f, "ConfigAnswer") }
func FuzzPEXRequest(f *testing.F)        { fuzz(f, "PEXRequest") }
func FuzzPEXAnswer(f *testing.F)         { fuzz(f, "PEXAnswer") }
func FuzzAppRequest(f *testing.F)        { fuzz(f, "AppRequest") }
func FuzzAppAnswer(f *testing.F)         { fuzz(f, "AppAnswer") }
func FuzzManifest(f *testing.F)          { fuzz(f, "Manifest") }
func FuzzChunk(f *testing.F)             { fuzz(f, "Chunk") }
func FuzzDHTValue(f *testing.F)          { fuzz(f, "DHTValue") }

func FuzzRecords(f *testing.F) {
	f.Add(EncodeRecords([][]byte{{1}, {2, 3}}))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var records [][]byte
		var err error
		if n, limit := allocated(func() { records, err = DecodeRecords(b) }), uint64(64<<10+64*len(b)); n > limit {
			t.Fatalf("%d bytes took %d bytes of memory, limit %d", len(b), n, limit)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("fault of nobody: %v", err)
			}
			return
		}
		if !bytes.Equal(EncodeRecords(records), b) {
			t.Fatal("not canonical")
		}
	})
}
