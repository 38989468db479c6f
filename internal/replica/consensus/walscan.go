package consensus

import (
	"encoding/binary"
	"hash/crc32"
)

// The library's log file: records of u32 length, u32 running CRC and the bytes
// padded to 8, little-endian. The first one, the anchor, has the CRC to start
// from.
const (
	walHeader  = 8
	anchorSize = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// condition is how a log file ends.
type condition int

const (
	whole   condition = iota
	torn              // inside the last record: a crash while it was written, so it was not sent
	corrupt           // inside a record that others follow: entries that were sent are lost
)

// inspect tells how the bytes of a log file end. A flipped bit in the last
// record is not to be told from a torn one.
func inspect(b []byte) condition {
	if len(b) < anchorSize || allZero(b) {
		if len(b) > anchorSize {
			return corrupt
		}
		return torn
	}
	size, crc := record(b)
	if size != anchorSize {
		return corrupt
	}
	for off := size; off < len(b); {
		rest := b[off:]
		if len(rest) < walHeader || allZero(rest) {
			return torn
		}
		size, want := record(rest)
		switch {
		case size > len(rest):
			if followed(rest, want) {
				return corrupt
			}
			return torn
		case crc32.Update(crc, castagnoli, rest[walHeader:size]) == want:
			off, crc = off+size, want
		case size == len(rest):
			return torn
		default:
			return corrupt
		}
	}
	return whole
}

// record gives the size of a record with header and padding, and its CRC.
func record(b []byte) (size int, crc uint32) {
	n := int(binary.LittleEndian.Uint32(b))
	return walHeader + (n+7)/8*8, binary.LittleEndian.Uint32(b[4:])
}

// followed reports whether a good record stands anywhere behind a bad one with
// that CRC: then the bad one is no torn tail, its length is damaged.
func followed(b []byte, crc uint32) bool {
	for off := walHeader; off+walHeader < len(b); off += 8 {
		size, want := record(b[off:])
		if size > walHeader && size <= len(b)-off && crc32.Update(crc, castagnoli, b[off+walHeader:off+size]) == want {
			return true
		}
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
