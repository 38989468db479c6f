package wire

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/parley-p2p/parley/chain"
)

// message is one message type with a sample whose every field is set and at
// its limit.
type message struct {
	name  string
	max   int    // 0 = bounded by its topic
	full  []byte // the sample, encoded
	value any
	// decode gives the value and its encoding.
	decode func(b []byte) (v any, again []byte, err error)
}

func of[T interface{ Encode() []byte }](max int, full T, decode func([]byte) (T, error)) message {
	return message{
		name:  reflect.TypeFor[T]().Name(),
		max:   max,
		full:  full.Encode(),
		value: full,
		decode: func(b []byte) (any, []byte, error) {
			v, err := decode(b)
			return v, v.Encode(), err
		},
	}
}

func text(n int) string { return strings.Repeat("x", n) }

func hash(b byte) chain.Hash { return chain.Hash(bytes.Repeat([]byte{b}, hashSize)) }

func hashes(n int) []chain.Hash {
	hs := make([]chain.Hash, n)
	for i := range hs {
		hs[i] = chain.Hash{byte(i), byte(i >> 8), 1}
	}
	return hs
}

// fullSubtree has as many records and as many bytes as a subtree can have.
func fullSubtree() [][]byte {
	records := make([][]byte, SubtreeRecords)
	for i := range records {
		records[i] = bytes.Repeat([]byte{byte(i), 1}, MaxSubtreeBytes/SubtreeRecords/2)
	}
	return records
}

func fullPEX() [][]byte {
	records := make([][]byte, MaxPEXRecords)
	for i := range records {
		records[i] = bytes.Repeat([]byte{byte(i)}, MaxPEXRecord)
	}
	return records
}

func fullVersion() Version {
	return Version{
		Protocol: math.MaxUint32, Network: text(MaxNetwork), ChainID: text(MaxChainID), GenesisHash: hash(1),
		BestHeight: maxNumber, BestHash: hash(2), EarliestHeight: maxNumber, UserAgent: text(MaxUserAgent),
		Services: math.MaxUint64, Name: text(MaxName), BaseURL: text(MaxBaseURL), Nonce: math.MaxUint64,
		TimeMS: maxNumber, APIPort: math.MaxUint16, AppStatus: make([]byte, MaxAppStatus),
	}
}

func fullNodeStatus(t testing.TB) NodeStatus {
	id, err := peer.Decode("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
	if err != nil {
		t.Fatal(err)
	}
	return NodeStatus{
		ClientName: text(MaxName), BaseURL: text(MaxBaseURL), Version: text(maxWord), CommitHash: text(maxWord),
		BestBlockHash: hash(1), BestHeight: maxNumber, TxCount: maxNumber, SubtreeCount: math.MaxUint32,
		FSMState: text(maxWord), StartTime: maxNumber, UptimeMS: maxNumber, MinerName: text(MaxName),
		ListenMode: text(maxWord), ChainWork: text(maxWord), ConnectedPeers: math.MaxUint32, Storage: text(maxWord),
		SyncPeer: id, SyncPeerHeight: maxNumber, SyncPeerHash: hash(2), SyncConnectedAt: maxNumber,
	}
}

func messages(t testing.TB) []message {
	return []message{
		of(MaxVersion, fullVersion(), DecodeVersion),
		of(MaxVerack, Verack{math.MaxUint32, text(MaxText), fullVersion()}, DecodeVerack),
		of(MaxGoodbye, Goodbye{math.MaxUint64, text(MaxText)}, DecodeGoodbye),
		of(0, Claim{maxNumber, math.MaxUint64, []byte("body")}, DecodeClaim),
		of(MaxSubtree, Subtree{hash(1), maxNumber, MaxSubtrees - 1, MaxSubtrees, hashes(SubtreeRecords)}, DecodeSubtree),
		of(MaxMiningOn, MiningOn{hash(1), hash(2), maxNumber, text(MaxName), math.MaxUint32, math.MaxUint32}, DecodeMiningOn),
		of(MaxRejectedTx, RejectedTx{hash(1), text(MaxReason), text(MaxText), maxNumber, hash(2)}, DecodeRejectedTx),
		of(MaxBestBlock, BestBlock{hash(1), maxNumber}, DecodeBestBlock),
		of(MaxNodeStatus, fullNodeStatus(t), DecodeNodeStatus),
		of(MaxAnnouncement, BlockAnnouncement{make([]byte, MaxHeader), make([]byte, MaxCertificate), hashes(MaxSubtrees)}, DecodeBlockAnnouncement),
		of(MaxOffer, Offer{hashes(MaxOfferIDs)}, DecodeOffer),
		of(MaxOffer, Want{hashes(MaxOfferIDs)}, DecodeWant),
		of(MaxSyncRequest, SyncRequest{SyncRecords, maxNumber, math.MaxInt32, hashes(MaxSyncRecords)}, DecodeSyncRequest),
		of(MaxSyncAnswer, HeaderAnswer{make([]byte, MaxHeader), make([]byte, MaxCertificate)}, DecodeHeaderAnswer),
		of(MaxSyncAnswer, SubtreeAnswer{maxNumber, MaxSubtrees - 1, fullSubtree()}, DecodeSubtreeAnswer),
		of(MaxSyncAnswer, ConfigAnswer{maxNumber, make([]byte, MaxConfig)}, DecodeConfigAnswer),
		of(MaxPEXRequest, PEXRequest{MaxPEXRecords}, DecodePEXRequest),
		of(MaxPEXAnswer, PEXAnswer{fullPEX()}, DecodePEXAnswer),
		of(MaxAppRequest, AppRequest{make([]byte, MaxAppData)}, DecodeAppRequest),
		of(MaxAppAnswer, AppAnswer{make([]byte, MaxAppChunk), true, text(MaxText)}, DecodeAppAnswer),
		of(MaxManifest, Manifest{text(maxTopicName), math.MaxUint32, math.MaxUint32, hash(1)}, DecodeManifest),
		of(MaxChunkTopic, Chunk{hash(1), math.MaxUint16, hashes(MaxBranch), make([]byte, MaxChunk)}, DecodeChunk),
		of(MaxDHTValue, DHTValue{text(MaxDHTKind), math.MaxUint64, maxNumber, make([]byte, MaxDHTData)}, DecodeDHTValue),
	}
}

func TestFullMessages(t *testing.T) {
	for _, m := range messages(t) {
		t.Run(m.name, func(t *testing.T) {
			v := reflect.ValueOf(m.value)
			for i := range v.NumField() {
				if v.Field(i).IsZero() {
					t.Errorf("sample leaves %s out", v.Type().Field(i).Name)
				}
			}
			if m.max > 0 && len(m.full) > m.max {
				t.Errorf("all fields at their limits are %d bytes, limit %d", len(m.full), m.max)
			}
			got, again, err := m.decode(m.full)
			if err != nil || !reflect.DeepEqual(got, m.value) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if !bytes.Equal(again, m.full) {
				t.Error("encoding is not stable")
			}
		})
	}
}

// Each field of each sample, one at a time, is spoiled.
func TestSpoiledFields(t *testing.T) {
	for _, m := range messages(t) {
		t.Run(m.name, func(t *testing.T) {
			for rest := m.full; len(rest) > 0; {
				num, typ, tag := protowire.ConsumeTag(rest)
				n := protowire.ConsumeFieldValue(num, typ, rest[tag:])
				field := rest[tag : tag+n]
				before, after := m.full[:len(m.full)-len(rest)], rest[tag+n:]
				rest = after
				put := func(typ protowire.Type, value []byte) []byte {
					b := protowire.AppendTag(bytes.Clone(before), num, typ)
					return append(append(b, value...), after...)
				}
				spoiled := map[string][]byte{"another wire type": put(protowire.Fixed32Type, make([]byte, 4))}
				if typ == protowire.BytesType && m.max > 0 {
					p, _ := protowire.ConsumeBytes(field)
					spoiled["a byte too many"] = put(typ, protowire.AppendBytes(nil, append(bytes.Clone(p), 'x')))
				}
				for how, b := range spoiled {
					_, _, err := m.decode(b)
					if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
						t.Errorf("field %d, %s: %v", num, how, err)
					}
				}
			}
		})
	}
}

func TestDamagedMessages(t *testing.T) {
	for _, m := range messages(t) {
		t.Run(m.name, func(t *testing.T) {
			v, _, err := m.decode(append(bytes.Clone(m.full), 0x80))
			if m.max > 0 && len(m.full) == m.max {
				t.Fatal("sample leaves no room")
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("half a tag at the end: %v", err)
			}
			if !reflect.ValueOf(v).IsZero() {
				t.Error("an error comes with half a value")
			}
			group := protowire.AppendTag(protowire.AppendTag(bytes.Clone(m.full), 99, protowire.StartGroupType), 99, protowire.EndGroupType)
			if _, _, err := m.decode(group); !errors.Is(err, ErrMalformed) {
				t.Errorf("group: %v", err)
			}
			if m.max > 0 {
				if _, _, err := m.decode(make([]byte, m.max+1)); !errors.Is(err, ErrTooLarge) {
					t.Errorf("over the limit of the message: %v", err)
				}
			}
		})
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	var unknown []byte
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 1000, protowire.VarintType), 7)
	unknown = protowire.AppendBytes(protowire.AppendTag(unknown, 1001, protowire.BytesType), []byte("later"))
	unknown = protowire.AppendFixed32(protowire.AppendTag(unknown, 1002, protowire.Fixed32Type), 7)
	unknown = protowire.AppendFixed64(protowire.AppendTag(unknown, 1003, protowire.Fixed64Type), 7)
	for _, m := range messages(t) {
		got, _, err := m.decode(append(bytes.Clone(unknown), m.full...))
		if err != nil || !reflect.DeepEqual(got, m.value) {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

func TestBounds(t *testing.T) {
	number := func(num protowire.Number, n uint64) []byte { return putUint(nil, num, n) }
	records := func(n int, record string) []byte {
		var b []byte
		for range n {
			b = protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), []byte(record))
		}
		return b
	}
	tests := []struct {
		name, message string
		in            []byte
		want          error
	}{
		{"protocol over 32 bits", "Version", number(1, 1<<32), ErrMalformed},
		{"height over 2^53", "Version", number(5, 1<<53), ErrMalformed},
		{"time over 2^53", "Version", number(13, 1<<53), ErrMalformed},
		{"port over 16 bits", "Version", number(14, 1<<16), ErrMalformed},
		{"short hash", "Version", putBytes(nil, 4, make([]byte, 31)), ErrMalformed},
		{"text not UTF-8", "Version", putBytes(nil, 10, []byte("a\xff")), ErrMalformed},
		{"bad inner message", "Verack", putBytes(nil, 3, []byte{0xff}), ErrMalformed},
		{"no peer ID", "NodeStatus", putBytes(nil, 17, []byte("me")), ErrMalformed},
		{"ids not whole", "BlockAnnouncement", putBytes(nil, 3, make([]byte, 33)), ErrMalformed},
		{"subtree without records", "Subtree", Subtree{ID: hash(1), Count: 1}.Encode(), ErrMalformed},
		{"subtree outside of its block", "Subtree", Subtree{ID: hash(1), Index: 2, Count: 2, Records: hashes(1)}.Encode(), ErrMalformed},
		{"more subtrees than a block has", "Subtree", Subtree{ID: hash(1), Count: MaxSubtrees + 1, Records: hashes(1)}.Encode(), ErrMalformed},
		{"257 records", "SubtreeAnswer", records(SubtreeRecords+1, "r"), ErrTooLarge},
		{"empty record", "SubtreeAnswer", records(1, ""), ErrMalformed},
		{"record too large", "SubtreeAnswer", records(1, text(MaxRecord+1)), ErrTooLarge},
		{"subtree too large", "SubtreeAnswer", records(7, text(MaxRecord)), ErrTooLarge},
		{"251 peer records wanted", "PEXRequest", number(1, MaxPEXRecords+1), ErrMalformed},
		{"251 peer records", "PEXAnswer", bytes.Repeat([]byte{0x0a, 1, 7}, MaxPEXRecords+1), ErrTooLarge},
		{"empty peer record", "PEXAnswer", []byte{0x0a, 0}, ErrMalformed},
		{"peer record too large", "PEXAnswer", putBytes(nil, 1, make([]byte, MaxPEXRecord+1)), ErrTooLarge},
		{"value too large", "DHTValue", putBytes(nil, 4, make([]byte, MaxDHTData+1)), ErrTooLarge},
	}
	byName := map[string]message{}
	for _, m := range messages(t) {
		byName[m.name] = m
	}
	for _, tt := range tests {
		if _, _, err := byName[tt.message].decode(tt.in); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestSyncRequests(t *testing.T) {
	tests := []struct {
		r    SyncRequest
		want error
	}{
		{SyncRequest{Kind: SyncHead}, nil},
		{SyncRequest{Kind: SyncConfigs, From: 3}, nil},
		{SyncRequest{Kind: SyncHeaders, From: 1, Count: MaxSyncHeaders}, nil},
		{SyncRequest{Kind: SyncHeaders, From: 1, Count: MaxSyncHeaders + 1}, ErrTooLarge},
		{SyncRequest{Kind: SyncHeaders, From: 1}, ErrMalformed},
		{SyncRequest{Kind: SyncBodies, From: 1, Count: MaxSyncBodies}, nil},
		{SyncRequest{Kind: SyncBodies, From: 1, Count: MaxSyncBodies + 1}, ErrTooLarge},
		{SyncRequest{Kind: SyncBodies, From: 1, Count: math.MaxUint32}, ErrMalformed},
		{SyncRequest{Kind: SyncSubtrees, IDs: hashes(MaxSyncSubtrees)}, nil},
		{SyncRequest{Kind: SyncSubtrees, IDs: hashes(MaxSyncSubtrees + 1)}, ErrTooLarge},
		{SyncRequest{Kind: SyncRecords, IDs: hashes(MaxSyncRecords)}, nil},
		{SyncRequest{Kind: SyncRecords, IDs: hashes(MaxSyncRecords + 1)}, ErrTooLarge},
		{SyncRequest{Kind: SyncRecords}, ErrMalformed},
		{SyncRequest{}, ErrMalformed},
		{SyncRequest{Kind: 7}, ErrMalformed},
	}
	for _, tt := range tests {
		got, err := DecodeSyncRequest(tt.r.Encode())
		if !errors.Is(err, tt.want) || (err == nil && !reflect.DeepEqual(got, tt.r)) {
			t.Errorf("%s from %d, count %d, %d ids: %v, want %v", tt.r.Kind, tt.r.From, tt.r.Count, len(tt.r.IDs), err, tt.want)
		}
	}
}

func TestRecords(t *testing.T) {
	full := bytes.Repeat([]byte{7}, MaxRecord)
	tests := []struct {
		name string
		in   []byte
		n    int // records wanted
		want error
	}{
		{"one", EncodeRecords([][]byte{{1}}), 1, nil},
		{"largest", EncodeRecords([][]byte{full, full, full, {1}}), 4, nil},
		{"none", nil, 0, ErrMalformed},
		{"half a length", []byte{0, 0, 0}, 0, ErrMalformed},
		{"empty record", []byte{0, 0, 0, 0}, 0, ErrMalformed},
		{"cut", []byte{0, 0, 0, 2, 1}, 0, ErrMalformed},
		{"rest", []byte{0, 0, 0, 1, 1, 9}, 0, ErrMalformed},
		{"record too large", EncodeRecords([][]byte{append(full, 7)}), 0, ErrTooLarge},
		{"message too large", make([]byte, MaxRecords+1), 0, ErrTooLarge},
		{"too many", bytes.Repeat([]byte{0, 0, 0, 1, 7}, maxRecordCount+1), 0, ErrTooLarge},
	}
	for _, tt := range tests {
		got, err := DecodeRecords(tt.in)
		if len(got) != tt.n || !errors.Is(err, tt.want) {
			t.Errorf("%s: %d records, %v; want %d, %v", tt.name, len(got), err, tt.n, tt.want)
		}
		if err == nil && !bytes.Equal(EncodeRecords(got), tt.in) {
			t.Errorf("%s: encoding is not stable", tt.name)
		}
	}
	got, err := DecodeRecords(EncodeRecords([][]byte{{1}, {2}}))
	if err != nil {
		t.Fatal(err)
	}
	if _ = append(got[0], 9); got[1][0] != 2 {
		t.Error("appending to a record writes into the next")
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"node1":                   "node1",
		"a\x00b\nc\x1b[31md\x7f":  "abc[31md",
		"\u202eevil\u200b\u2028":  "evil",
		"h\xffi\xe2\x82":          "hi",
		"Zürich 🐧":                "Zürich 🐧",
		"\u0085next\u00a0line\t.": "nextline.",
	} {
		if got := CleanText(in); got != want {
			t.Errorf("CleanText(%q) = %q, want %q", in, got, want)
		}
	}
	g, err := DecodeGoodbye(putBytes(nil, 2, []byte("bye\r\n\x07")))
	if err != nil || g.Text != "bye" {
		t.Errorf("decoded text %q, %v", g.Text, err)
	}
	g, err = DecodeGoodbye(Goodbye{Text: strings.Repeat("ü", 200) + "\n"}.Encode())
	if want := strings.Repeat("ü", 128); err != nil || g.Text != want {
		t.Errorf("long text arrives as %q, %v", g.Text, err)
	}
	g, err = DecodeGoodbye(Goodbye{Text: "x" + strings.Repeat("ü", 200)}.Encode())
	if want := "x" + strings.Repeat("ü", 127); err != nil || g.Text != want {
		t.Errorf("text is cut inside a character: %q, %v", g.Text, err)
	}
}

func TestVersionStatus(t *testing.T) {
	s := chain.Status{Network: "consortium", ChainID: "c-1", Genesis: hash(1), Head: chain.Head{Height: 3, Hash: hash(2)},
		Earliest: 1, Services: chain.Full | chain.API, App: []byte("app")}
	var v Version
	v.SetStatus(s)
	got, err := DecodeVersion(v.Encode())
	if err != nil || !reflect.DeepEqual(got.Status(), s) {
		t.Errorf("got %+v, %v", got.Status(), err)
	}
}

func TestNames(t *testing.T) {
	if got := VerackName(WrongGenesis) + VerackName(NotAllowed) + VerackName(8); got != "wrong_genesisnot_allowedother" {
		t.Error(got)
	}
	if got := SyncHead.String() + SyncConfigs.String() + SyncIDs.String() + SyncKind(8).String(); got != "headconfigsidsunknown" {
		t.Error(got)
	}
}

// The worst bytes of each kind take little more memory than they are long.
func TestDecodersTakeLittleMemory(t *testing.T) {
	fill := func(max int, field []byte) []byte { return bytes.Repeat(field, max/len(field)) }
	name := putText(nil, 10, text(MaxName), MaxName)
	tests := []struct {
		name   string
		in     []byte
		decode func(b []byte) error
		limit  uint64
	}{
		{"texts", fill(MaxVersion, name),
			func(b []byte) error { _, err := DecodeVersion(b); return err }, 2 * MaxVersion},
		{"inner messages", fill(MaxVerack, putBytes(nil, 3, fill(1000, name))),
			func(b []byte) error { _, err := DecodeVerack(b); return err }, 2 * MaxVerack},
		{"runs of hashes", fill(MaxAnnouncement, putHashes(nil, 3, hashes(10))),
			func(b []byte) error { _, err := DecodeBlockAnnouncement(b); return err }, 2 * MaxAnnouncement},
		{"smallest records", fill(MaxRecords, []byte{0, 0, 0, 1, 7}),
			func(b []byte) error { _, err := DecodeRecords(b); return err }, 2 * MaxRecords},
		{"smallest records of a subtree", fill(MaxSyncAnswer, []byte{0x1a, 1, 7}),
			func(b []byte) error { _, err := DecodeSubtreeAnswer(b); return err }, 24 << 10},
		{"smallest peer records", fill(MaxPEXAnswer, []byte{0x0a, 1, 7}),
			func(b []byte) error { _, err := DecodePEXAnswer(b); return err }, 24 << 10},
	}
	for _, tt := range tests {
		var err error
		if got := allocated(func() { err = tt.decode(tt.in) }); got > tt.limit {
			t.Errorf("%s: %d bytes taken, limit %d (%v)", tt.name, got, tt.limit, err)
		}
	}
}

func BenchmarkBlockAnnouncement(b *testing.B) {
	a := BlockAnnouncement{make([]byte, 268), make([]byte, 2+3*72), hashes(4)}
	p := a.Encode()
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Encode()
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeBlockAnnouncement(p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
