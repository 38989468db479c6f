package consortium

import (
	"bytes"
	"crypto/ed25519"
	"testing"
)

func BenchmarkDecodeRecord(b *testing.B) {
	raw := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256))).Encode()
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := DecodeRecord(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRecord(b *testing.B) {
	r := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Verify(testGenesis); err != nil {
			b.Fatal(err)
		}
	}
}

// A record of a message of 32.
func BenchmarkVerifyRecords(b *testing.B) {
	list := make([]*Record, 32)
	for i := range list {
		list[i] = sampleRecord(testGenesis, uint64(i), string(bytes.Repeat([]byte{'x'}, 256)))
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for _, err := range VerifyRecords(list, testGenesis) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}

// Of an author that signs for the first time.
func BenchmarkVerifyRecordNewAuthor(b *testing.B) {
	r := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256)))
	msg := signedBytes(tagSignRecord, testGenesis, r.digest())
	b.ReportAllocs()
	for b.Loop() {
		if !r.Author.verifyBy(nil, msg, r.Sig) {
			b.Fatal("refused")
		}
	}
}

// What the standard library takes for it.
func BenchmarkVerifyStandard(b *testing.B) {
	r := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256)))
	msg := signedBytes(tagSignRecord, testGenesis, r.digest())
	b.ReportAllocs()
	for b.Loop() {
		if !ed25519.Verify(r.Author[:], msg, r.Sig[:]) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkRecordID(b *testing.B) {
	raw := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256))).Encode()
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		RecordID(raw)
	}
}

// benchBody is the largest body of 1 MiB with records of 256 bytes each.
func benchBody() (Body, []byte) {
	raw := sampleRecord(testGenesis, 1, string(bytes.Repeat([]byte{'x'}, 256))).Encode()
	var records [][]byte
	for size := 2 + 2*16; size+4+len(raw) <= 1<<20; size += 4 + len(raw) {
		records = append(records, raw)
	}
	body := Body(Pack(records))
	return body, EncodeBody(body)
}

func BenchmarkDecodeBody(b *testing.B) {
	_, raw := benchBody()
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := DecodeBody(raw, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBodyRoot(b *testing.B) {
	body, raw := benchBody()
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		BlockRoot(body.SubtreeIDs())
	}
}

func BenchmarkHeaderHash(b *testing.B) {
	block, _ := sampleBlock(1)
	b.ReportAllocs()
	for b.Loop() {
		block.Header.Hash()
	}
}

func BenchmarkVerifyCertificate(b *testing.B) {
	block, set := sampleBlock(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := block.Certificate.Verify(block.Header, set); err != nil {
			b.Fatal(err)
		}
	}
}
