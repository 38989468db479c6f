package host

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"
)

// The vectors of RFC 9001, A.1.
func TestServerKeys(t *testing.T) {
	client, _ := hex.DecodeString("8394c8f03e515708")
	key, iv, mask, err := serverKeys(client)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(iv); got != "0ac1493ca1905853b0bba03e" {
		t.Errorf("iv %s", got)
	}
	// A.3: what masks the header, and the whole server's Initial, which only the
	// right key opens.
	packet, _ := hex.DecodeString("cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3" +
		"dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee")
	at := 18 // of the packet number, two bytes
	sample, block := packet[at+4:][:sampleSize], make([]byte, 16)
	mask.Encrypt(block, sample)
	if got := hex.EncodeToString(block[:5]); got != "2ec0d8356a" {
		t.Errorf("mask %s", got)
	}
	packet[0] ^= block[0] & 0x0f
	packet[at] ^= block[1]
	packet[at+1] ^= block[2]
	if !bytes.Equal(packet[:1], []byte{0xc1}) || !bytes.Equal(packet[at:at+2], []byte{0, 1}) {
		t.Fatalf("header % x", packet[:at+2])
	}
	iv[11] ^= 1
	plain, err := key.Open(nil, iv, packet[at+2:], packet[:at+2])
	if err != nil || !bytes.HasPrefix(plain, []byte{0x02, 0, 0, 0, 0, 0x06}) {
		t.Errorf("%x, %v", plain, err)
	}
}

// clientInitial is the begin of a client's first packet, as long as it has to be.
func clientInitial(to, from int) []byte {
	p := []byte{0xc3, 0, 0, 0, 1, byte(to)}
	p = append(p, bytes.Repeat([]byte{1}, to)...)
	p = append(append(p, byte(from)), bytes.Repeat([]byte{2}, from)...)
	return append(p, make([]byte, max(0, minInitial-len(p)))...)
}

func TestParseInitial(t *testing.T) {
	alter := func(at int, to byte) []byte {
		p := clientInitial(8, 4)
		p[at] = to
		return p
	}
	for name, tt := range map[string]struct {
		packet []byte
		want   bool
	}{
		"an Initial":                  {clientInitial(8, 4), true},
		"the longest ids":             {clientInitial(20, 20), true},
		"no id of its own":            {clientInitial(8, 0), true},
		"too short an id":             {clientInitial(7, 4), false},
		"too long an id":              {clientInitial(21, 4), false},
		"too long an id of its own":   {clientInitial(8, 21), false},
		"too short a datagram":        {clientInitial(8, 4)[:minInitial-1], false},
		"nothing":                     {nil, false},
		"a handshake":                 {alter(0, 0xe3), false},
		"0-RTT":                       {alter(0, 0xd3), false},
		"a Retry":                     {alter(0, 0xf3), false},
		"a short header":              {alter(0, 0x43), false},
		"no fixed bit":                {alter(0, 0x83), false},
		"version negotiation":         {alter(4, 0), false},
		"another version":             {alter(4, 2), false},
		"an id longer than all there": {alter(5, 255), false},
	} {
		if _, ok := parseInitial(tt.packet); ok != tt.want {
			t.Errorf("%s: %v, want %v", name, ok, tt.want)
		}
	}
}

func FuzzParseInitial(f *testing.F) {
	for _, p := range [][]byte{clientInitial(8, 4), clientInitial(20, 20), clientInitial(8, 0), nil, make([]byte, minInitial)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		before := slices.Clone(p)
		i, ok := parseInitial(p)
		if !bytes.Equal(p, before) {
			t.Fatal("it writes to the packet")
		}
		if !ok {
			return
		}
		if !bytes.Equal(i.to.bytes(), p[6:6+i.to.n]) || !bytes.Equal(i.from.bytes(), p[7+i.to.n:][:i.from.n]) {
			t.Fatalf("ids %x and %x", i.to.bytes(), i.from.bytes())
		}
		if a := i.refusal(); len(a) > 80 { // no amplifier
			t.Fatalf("an answer of %d bytes", len(a))
		}
	})
}

func BenchmarkRefusal(b *testing.B) {
	i, ok := parseInitial(clientInitial(8, 4))
	if !ok {
		b.Fatal("no Initial")
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(i.refusal()) == 0 {
			b.Fatal("no answer")
		}
	}
}
