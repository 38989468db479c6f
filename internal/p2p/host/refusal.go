package host

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// Of QUIC version 1, RFC 9000 and 9001.
const (
	quicVersion   = 1
	initialType   = 0b1100_0000 // of a first byte: long header, fixed bit, type 0
	initialMask   = 0b1111_0000
	minInitial    = 1200 // bytes of a datagram with an Initial of a client
	minClientCID  = 8    // bytes of the connection id that a client makes up
	maxConnID     = 20
	closeFrame    = 0x1c                                                                               // CONNECTION_CLOSE of the transport
	refusedCode   = 0x02                                                                               // CONNECTION_REFUSED
	packetNumber  = 4                                                                                  // bytes of it
	sampleSize    = 16                                                                                 // bytes of what the header is masked by
	initialSecret = "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a" // RFC 9001, 5.2: the salt
)

// connID is a connection id; it can be compared.
type connID struct {
	n uint8
	b [maxConnID]byte
}

func (c *connID) bytes() []byte { return c.b[:c.n] }

// initial is what the refusal of a client's first packet is made of.
type initial struct{ to, from connID } // the ids of its header

// parseInitial reports whether a datagram begins with an Initial packet of a
// client, which asks for a connection. It decrypts nothing.
func parseInitial(p []byte) (i initial, ok bool) {
	if len(p) < minInitial || p[0]&initialMask != initialType || binary.BigEndian.Uint32(p[1:]) != quicVersion {
		return i, false
	}
	p = p[5:]
	for _, id := range []*connID{&i.to, &i.from} {
		n := p[0] // p is longer than two ids
		if n > maxConnID {
			return i, false
		}
		id.n = n
		copy(id.b[:], p[1:1+n])
		p = p[1+n:]
	}
	return i, i.to.n >= minClientCID
}

// refusal is the packet that closes the attempt with CONNECTION_REFUSED, as the
// library would say it. The keys of one direction are enough for it.
func (i *initial) refusal() []byte {
	key, iv, mask, err := serverKeys(i.to.bytes())
	if err != nil {
		return nil // in FIPS mode the salt is too short
	}
	frame := []byte{closeFrame, refusedCode, 0, 0} // by no frame, for no reason
	p := []byte{initialType | (packetNumber - 1)}
	p = binary.BigEndian.AppendUint32(p, quicVersion)
	p = append(append(p, i.from.n), i.from.bytes()...)
	p = append(append(p, i.to.n), i.to.bytes()...)
	p = append(p, 0, byte(packetNumber+len(frame)+key.Overhead())) // no token; a length below 64
	at := len(p)
	p = append(p, make([]byte, packetNumber)...) // number 0: the nonce is iv
	p = key.Seal(p, iv, frame, bytes.Clone(p))
	var block [aes.BlockSize]byte
	mask.Encrypt(block[:], p[at+packetNumber:][:sampleSize])
	p[0] ^= block[0] & 0x0f
	for n := range packetNumber {
		p[at+n] ^= block[1+n]
	}
	return p
}

// serverKeys are those of a server's Initial packets: everybody who has seen the
// client's connection id knows them.
func serverKeys(client []byte) (key cipher.AEAD, iv []byte, mask cipher.Block, err error) {
	secret, err := hkdf.Extract(sha256.New, client, []byte(initialSecret))
	if err != nil {
		return nil, nil, nil, err
	}
	var parts [3][]byte
	if secret, err = expandLabel(secret, "server in", sha256.Size); err != nil {
		return nil, nil, nil, err
	}
	for n, label := range []string{"quic key", "quic iv", "quic hp"} {
		if parts[n], err = expandLabel(secret, label, []int{16, 12, 16}[n]); err != nil {
			return nil, nil, nil, err
		}
	}
	block, err := aes.NewCipher(parts[0])
	if err != nil {
		return nil, nil, nil, err
	}
	if key, err = cipher.NewGCM(block); err != nil {
		return nil, nil, nil, err
	}
	mask, err = aes.NewCipher(parts[2])
	return key, parts[1], mask, err
}

// expandLabel is HKDF-Expand-Label of TLS 1.3 without a context.
func expandLabel(secret []byte, label string, size int) ([]byte, error) {
	info := append([]byte{0, byte(size), byte(len("tls13 ") + len(label))}, "tls13 "+label+"\x00"...)
	return hkdf.Expand(sha256.New, secret, string(info), size)
}
