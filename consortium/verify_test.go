package consortium

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	mrand "math/rand/v2"
	"testing"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// lastTable is of the key of the last sameVerdict.
var lastTable keyTable

// lastSigned is what the last sameVerdict was about, and lastGood its verdict.
var (
	lastSigned signed
	lastGood   bool
)

// sameVerdict compares all ways of ours with the standard library, and returns
// the verdict.
func sameVerdict(t *testing.T, k PublicKey, msg []byte, sig Signature) bool {
	t.Helper()
	want := ed25519.Verify(k[:], msg, sig[:])
	if got := k.verifyBy(nil, msg, sig); got != want {
		t.Errorf("without a table %v, the standard library says %v: key %x, message %x, signature %x", got, want, k, msg, sig)
	}
	if k != lastTable.key {
		lastTable = keyTable{key: k}
		if minus, ok := k.negated(); ok {
			lastTable.minus = newMultiples(minus, keyBits)
		}
	}
	if lastTable.minus != nil {
		if got := k.verifyBy(lastTable.minus, msg, sig); got != want {
			t.Errorf("with a table %v, the standard library says %v: key %x, message %x, signature %x", got, want, k, msg, sig)
		}
	}
	if got := k.verify(msg, sig); got != want {
		t.Errorf("through the cache %v, the standard library says %v: key %x, message %x, signature %x", got, want, k, msg, sig)
	}
	if lastSigned.msg != nil {
		got := verifyAll([]signed{lastSigned, {k, msg, sig}, lastSigned})
		if got[0] != lastGood || got[1] != want || got[2] != lastGood {
			t.Errorf("together %v, the standard library says %v and %v: key %x, message %x, signature %x; behind key %x, message %x, signature %x",
				got, lastGood, want, k, msg, sig, lastSigned.key, lastSigned.msg, lastSigned.sig)
		}
	}
	lastSigned, lastGood = signed{k, bytes.Clone(msg), sig}, want
	return want
}

// oddPoints are encodings that implementations judge differently: all points
// of small order, those with a y that is not reduced, a negative zero, and what
// is no point.
func oddPoints(t testing.TB) (all [][32]byte) {
	t.Helper()
	for _, s := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"0200000000000000000000000000000000000000000000000000000000000000",
		"0300000000000000000000000000000000000000000000000000000000000000",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, [32]byte(b))
	}
	return all
}

// oddScalars stand at the ends of what s may be.
func oddScalars(t testing.TB) (all [][32]byte) {
	t.Helper()
	order, err := hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	if err != nil {
		t.Fatal(err)
	}
	add := func(change int) {
		s := [32]byte(order)
		s[0] = byte(int(s[0]) + change)
		all = append(all, s)
	}
	for _, change := range []int{-2, -1, 0, 1, 2} {
		add(change)
	}
	high := [32]byte(order)
	high[31] |= 0x80
	return append(all, [32]byte{}, [32]byte{1}, [32]byte{31: 0x10}, [32]byte{31: 0x80}, [32]byte{31: 0xf0}, high, [32]byte(bytes.Repeat([]byte{0xff}, 32)))
}

// Every signature of odd parts gets the verdict of the standard library, and
// some of them are good, or the test would prove nothing.
func TestVerifyOddEncodings(t *testing.T) {
	points, scalars := oddPoints(t), oddScalars(t)
	good := 0
	for _, k := range points {
		for _, r := range points {
			for i, s := range scalars {
				sig := Signature(append(r[:], s[:]...))
				if sameVerdict(t, PublicKey(k), []byte{byte(i)}, sig) {
					good++
				}
			}
		}
	}
	if good == 0 {
		t.Error("no signature of small order is good")
	}
}

// mixed is a signature under a key and with a nonce that may have a part of
// small order: cofactorless verification takes about one of eight, with
// cofactor all are good.
func mixed(t *testing.T, msg []byte, keyPart, noncePart int) (PublicKey, Signature) {
	t.Helper()
	a, err := scalar.New().SetRandom(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n, err := scalar.New().SetRandom(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(s *scalar.Scalar, part int) [32]byte {
		var p curve.EdwardsPoint
		p.MulBasepoint(curve.ED25519_BASEPOINT_TABLE, s)
		p.Add(&p, curve.EIGHT_TORSION[part])
		var y curve.CompressedEdwardsY
		return [32]byte(*y.SetEdwardsPoint(&p))
	}
	k, r := encode(a, keyPart), encode(n, noncePart)
	digest := sha512.Sum512(append(append(append([]byte{}, r[:]...), k[:]...), msg...))
	h, err := scalar.NewFromBytesModOrderWide(digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var s scalar.Scalar
	s.Add(s.Mul(h, a), n)
	sig := make([]byte, 64)
	copy(sig, r[:])
	if err := s.ToBytes(sig[32:]); err != nil {
		t.Fatal(err)
	}
	return PublicKey(k), Signature(sig)
}

func TestVerifyMixedOrder(t *testing.T) {
	good, bad := 0, 0
	for i := range 1024 {
		msg := binary.BigEndian.AppendUint32(nil, uint32(i))
		k, sig := mixed(t, msg, i%8, i/8%8)
		if sameVerdict(t, k, msg, sig) {
			good++
		} else {
			bad++
		}
	}
	if good < 64 || bad < 512 {
		t.Errorf("%d good and %d bad of 1,024, want about an eighth good", good, bad)
	}
}

// A key's first signatures and those after it has a table get the same verdicts,
// also when one bit is wrong.
func TestVerifyFlippedBits(t *testing.T) {
	random := mrand.New(mrand.NewPCG(1, 2))
	for range 16 {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 * tableAfter {
			msg := binary.BigEndian.AppendUint64(nil, random.Uint64())
			sig := sign(key, msg)
			if !sameVerdict(t, PublicKey(pub), msg, sig) {
				t.Fatalf("signature %d is refused", i)
			}
			sig[random.IntN(len(sig))] ^= 1 << random.IntN(8)
			if sameVerdict(t, PublicKey(pub), msg, sig) {
				t.Fatalf("signature %d with a wrong bit is taken", i)
			}
		}
	}
}

// In any company, of good and bad ones, of keys that signed often or once, a
// record gets its own verdict.
func TestVerifyRecords(t *testing.T) {
	random := mrand.New(mrand.NewPCG(3, 4))
	var keys []ed25519.PrivateKey
	for range 5 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	for n := range 60 {
		var list []*Record
		var good []bool
		for i := range n {
			r := &Record{Nonce: uint64(i), Subject: "thing", MediaType: "text/plain"}
			r.Sign(keys[min(random.IntN(20), len(keys)-1)], testGenesis)
			good = append(good, random.IntN(4) > 0)
			if !good[i] {
				r.Sig[random.IntN(len(r.Sig))] ^= 1 << random.IntN(8)
			}
			list = append(list, r)
		}
		for i, err := range VerifyRecords(list, testGenesis) {
			if single := list[i].Verify(testGenesis); (err == nil) != good[i] || fmt.Sprint(err) != fmt.Sprint(single) {
				t.Fatalf("record %d of %d: %v, alone %v; its signature is good: %v", i, n, err, single, good[i])
			}
		}
	}
}

// What is remembered of keys has a bound, whoever signs.
func TestKeyCacheIsBounded(t *testing.T) {
	c := newKeyCache()
	y := PublicKey{1}
	for i := range keyCounts + 10 {
		c.table(PublicKey{0: byte(i), 1: byte(i >> 8), 31: 1})
	}
	if len(c.counts) > keyCounts {
		t.Errorf("%d keys are counted, the limit is %d", len(c.counts), keyCounts)
	}
	made := 0
	for i := 0; made < keyTables+20; i++ {
		binary.LittleEndian.PutUint32(y[:], uint32(i))
		if _, ok := y.negated(); !ok {
			continue
		}
		for range tableAfter - 1 {
			if c.table(y) != nil {
				t.Fatal("a table before the key signed often")
			}
		}
		if c.table(y) == nil {
			t.Fatal("no table for a key that signed often")
		}
		made++
	}
	if c.recent.Len() != keyTables || len(c.tables) != keyTables {
		t.Errorf("%d and %d tables, want %d", c.recent.Len(), len(c.tables), keyTables)
	}
	if _, kept := c.tables[y]; !kept {
		t.Error("the newest table is gone")
	}
}

func FuzzVerify(f *testing.F) {
	for i, p := range oddPoints(f) {
		s := oddScalars(f)[i%len(oddScalars(f))]
		f.Add(p[:], append(p[:], s[:]...), []byte("m"))
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(pub), ed25519.Sign(key, []byte("m")), []byte("m"))
	f.Fuzz(func(t *testing.T, k, sig, msg []byte) {
		if len(k) == len(PublicKey{}) && len(sig) == len(Signature{}) {
			sameVerdict(t, PublicKey(k), msg, Signature(sig))
		}
	})
}
