package consortium

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/parley-p2p/parley/chain"
)

// drawRecords gives up to 600 pretended records that share one buffer.
func drawRecords(t *rapid.T) [][]byte {
	shared := make([]byte, MaxRecord)
	size := rapid.OneOf(rapid.IntRange(MinRecord, 400), rapid.IntRange(MaxRecord-400, MaxRecord), rapid.Just(SubtreeBytes/7), rapid.Just(SubtreeBytes/256))
	var out [][]byte
	for range rapid.IntRange(0, 40).Draw(t, "runs") {
		n, count := size.Draw(t, "size"), rapid.IntRange(1, 15).Draw(t, "count")
		out = append(out, slices.Repeat([][]byte{shared[:n]}, count)...)
	}
	return out
}

func TestPackIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		body := Body(Pack(records))
		var all [][]byte
		for i, s := range body {
			if n := len(s.Records); n == 0 || n > SubtreeRecords || s.bytes() > SubtreeBytes {
				t.Fatalf("subtree %d has %d records, %d bytes", i, n, s.bytes())
			}
			all = append(all, s.Records...)
		}
		if !slices.EqualFunc(all, records, func(a, b []byte) bool { return &a[0] == &b[0] && len(a) == len(b) }) {
			t.Fatal("other records, or another order")
		}
		if err := body.checkPacking(); err != nil {
			t.Fatal(err)
		}
		if len(records) < 2 {
			return
		}
		if err := moveBoundary(t, body).checkPacking(); err == nil {
			t.Fatal("another split is accepted too")
		}
	})
}

// moveBoundary returns the records of body in other subtrees.
func moveBoundary(t *rapid.T, body Body) Body {
	other := slices.Clone(body)
	i := rapid.IntRange(0, len(body)-1).Draw(t, "subtree")
	s := body[i].Records
	if i+1 < len(body) { // its last record moves to the next one
		next := slices.Concat(s[len(s)-1:], body[i+1].Records)
		other[i], other[i+1] = Subtree{s[:len(s)-1]}, Subtree{next}
		return other
	}
	cut := rapid.IntRange(0, len(s)).Draw(t, "cut") // 0 and len(s) leave an empty one
	return append(other[:i], Subtree{s[:cut]}, Subtree{s[cut:]})
}

func TestBodyRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 256, 257, 600} {
		b, _ := sampleBlock(n)
		raw := EncodeBody(b.Body)
		if b.Body.Size() != len(raw) {
			t.Errorf("size %d of %d bytes", b.Body.Size(), len(raw))
		}
		got, err := DecodeBody(raw, len(raw))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(EncodeBody(got), raw) {
			t.Errorf("%d records: encodes to other bytes", n)
		}
		if got.Records() != n {
			t.Errorf("%d records, want %d", got.Records(), n)
		}
		if err := CheckBody(b.Header, got); err != nil {
			t.Error(err)
		}
		if n > 0 && &got[0].Records[0][0] != &raw[8] {
			t.Error("records are copies")
		}
		_, err = DecodeBody(raw, len(raw)-1)
		wantError(t, err, "over the limit")
	}
}

func TestDecodeBodyRefuses(t *testing.T) {
	small := bytes.Repeat([]byte{1}, MinRecord)
	large := bytes.Repeat([]byte{1}, MaxRecord)
	many := slices.Repeat([][]byte{small}, SubtreeRecords+1)
	for _, c := range []struct {
		name string
		body Body
		want string
	}{
		{"full and a rest", Pack(many), ""},
		{"257 records in one subtree", Body{{many}}, "over the limit of 256"},
		{"closed early", Body{{many[:200]}, {many[200:]}}, "closed early"},
		{"full by bytes", Pack(slices.Repeat([][]byte{large}, 7)), ""},
		{"too many bytes", Body{{slices.Repeat([][]byte{large}, 7)}}, "subtree 0 has 7 records"},
		{"empty subtree", Body{{[][]byte{small, small}}, {}}, "empty"},
		{"only an empty subtree", Body{{}}, "do not fit"},
		{"record too small", Body{{[][]byte{small[:MinRecord-1], large}}}, "want 125 to 66040"},
		{"record too large", Body{{[][]byte{append(large, 1)}}}, "over the limit of 66040"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeBody(EncodeBody(c.body), MaxBlockBytes)
			wantError(t, err, c.want)
		})
	}
	raw := EncodeBody(Pack(many[:3]))
	for n := range raw {
		if _, err := DecodeBody(raw[:n], MaxBlockBytes); err == nil {
			t.Errorf("accepted when cut to %d of %d bytes", n, len(raw))
		}
	}
	_, err := DecodeBody(append(raw, 0), MaxBlockBytes)
	wantError(t, err, "left over")
}

func TestCheckBody(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Block)
		want string
	}{
		{"as it is", func(*Block) {}, ""},
		{"records", func(b *Block) { b.Header.Records++ }, "where the header has"},
		{"subtrees", func(b *Block) { b.Header.Subtrees++ }, "where the header has"},
		{"bytes", func(b *Block) { b.Header.BodyBytes++ }, "where the header has"},
		{"root", func(b *Block) { b.Header.Root[0] ^= 1 }, "root"},
		{"order", func(b *Block) {
			r := b.Body[0].Records
			r[0], r[1] = r[1], r[0]
		}, "root"},
		{"packing", func(b *Block) {
			r := b.Body[0].Records
			b.Body = Body{{r[:100]}, {r[100:]}}
		}, "closed early"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := sampleBlock(300)
			c.edit(b)
			wantError(t, CheckBody(b.Header, b.Body), c.want)
		})
	}
}

// TestMerkleShape writes small trees out by hand.
func TestMerkleShape(t *testing.T) {
	hash := func(prefix byte, parts ...chain.Hash) chain.Hash {
		b := []byte{prefix}
		for _, p := range parts {
			b = append(b, p[:]...)
		}
		return sha256.Sum256(b)
	}
	var ids, l []chain.Hash
	for i := range 7 {
		ids = append(ids, chain.Hash{byte(i)})
		l = append(l, hash(0, ids[i]))
	}
	node := func(a, b chain.Hash) chain.Hash { return hash(1, a, b) }
	roots := []chain.Hash{
		1: l[0],
		2: node(l[0], l[1]),
		3: node(node(l[0], l[1]), l[2]),
		5: node(node(node(l[0], l[1]), node(l[2], l[3])), l[4]),
		7: node(node(node(l[0], l[1]), node(l[2], l[3])), node(node(l[4], l[5]), l[6])),
	}
	for n, root := range roots {
		if root.IsZero() {
			continue
		}
		want := sha256.Sum256(slices.Concat([]byte{2, 0, byte(n)}, root[:]))
		if got := SubtreeID(ids[:n]); got != want {
			t.Errorf("subtree of %d: %s, want %x", n, got, want)
		}
	}
	blocks := map[int]chain.Hash{0: {}, 1: ids[0], 2: hash(3, ids[0], ids[1]), 3: hash(3, hash(3, ids[0], ids[1]), ids[2])}
	for n, want := range blocks {
		if got := BlockRoot(ids[:n]); got != want {
			t.Errorf("root over %d: %s, want %s", n, got, want)
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, metadata := range [][]byte{nil, {1}, bytes.Repeat([]byte{7}, MaxMetadata)} {
		b, _ := sampleBlock(3)
		b.Header.Metadata = metadata
		raw := b.Header.Encode()
		if len(raw) != 204+len(metadata) {
			t.Errorf("%d bytes, want 204 + %d", len(raw), len(metadata))
		}
		got, err := DecodeHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(b.Header, got); d != "" {
			t.Error(d)
		}
		if got.Hash() != tagged("parley/header/1", raw) {
			t.Error("the hash is not over the bytes")
		}
	}
}

// TestHeaderOffsets holds the table of the specification.
func TestHeaderOffsets(t *testing.T) {
	h := &Header{
		Genesis: chain.Hash{1}, Height: 2, Prev: chain.Hash{3}, Time: 4, Epoch: 5, Set: chain.Hash{6}, NextSet: chain.Hash{7},
		Proposer: 8, Records: 9, Subtrees: 10, BodyBytes: 11, Root: chain.Hash{12}, Metadata: []byte{13},
	}
	raw := h.Encode()
	for offset, want := range map[int]byte{
		0: 1, 1: 1, 33 + 7: 2, 41: 3, 73 + 7: 4, 81 + 7: 5, 89: 6, 121: 7, 153 + 7: 8, 161 + 3: 9, 165 + 1: 10, 167 + 3: 11, 171: 12, 203: 1, 204: 13,
	} {
		if raw[offset] != want {
			t.Errorf("byte %d is %d, want %d", offset, raw[offset], want)
		}
	}
}

func TestDecodeHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Header)
		want string
	}{
		{"height 0", func(h *Header) { h.Height = 0 }, "genesis"},
		{"height at its limit", func(h *Header) { h.Height = 1<<53 - 1 }, ""},
		{"height over it", func(h *Header) { h.Height = 1 << 53 }, "height"},
		{"time over its limit", func(h *Header) { h.Time = 1 << 53 }, "time"},
		{"epoch over its limit", func(h *Header) { h.Epoch = 1 << 53 }, "epoch"},
		{"proposer over its limit", func(h *Header) { h.Proposer = 1 << 53 }, "proposer"},
		{"metadata over its limit", func(h *Header) { h.Metadata = make([]byte, 65) }, "metadata"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := sampleBlock(1)
			c.edit(b.Header)
			_, err := DecodeHeader(b.Header.Encode())
			wantError(t, err, c.want)
		})
	}
	b, _ := sampleBlock(1)
	raw := b.Header.Encode()
	for n := range raw {
		if _, err := DecodeHeader(raw[:n]); err == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	_, err := DecodeHeader(append(raw, 0))
	wantError(t, err, "left over")
	raw[0] = 2
	_, err = DecodeHeader(raw[:204+4])
	wantError(t, err, "version 2")
}

// TestPackAtLimits stands on both limits and one step beyond.
func TestPackAtLimits(t *testing.T) {
	record := func(n int) []byte { return make([]byte, n) }
	six := slices.Repeat([][]byte{record(SubtreeBytes / 7)}, 6)
	for _, c := range []struct {
		name    string
		records [][]byte
		want    int // subtrees
	}{
		{"none", nil, 0},
		{"458,752 bytes", append(slices.Clip(six), record(SubtreeBytes/7)), 1},
		{"one byte more", append(slices.Clip(six), record(SubtreeBytes/7+1)), 2},
		{"256 records", slices.Repeat([][]byte{record(MinRecord)}, 256), 1},
		{"257 records", slices.Repeat([][]byte{record(MinRecord)}, 257), 2},
	} {
		if got := len(Pack(c.records)); got != c.want {
			t.Errorf("%s: %d subtrees, want %d", c.name, got, c.want)
		}
	}
}
