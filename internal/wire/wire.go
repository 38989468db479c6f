// Package wire owns the bytes between two parley nodes: frames on streams and
// the messages inside them.
//
// Messages are protobuf as wire.proto says, read and written by hand: each
// field is bounded before memory is taken, unknown fields are skipped, a known
// field of another wire type is malformed. Encoders clean text and cut it to
// its limit; all other limits are the caller's to keep, and a value over one
// is refused by the decoder. Decoders return ErrMalformed or ErrTooLarge, and
// byte fields of what they return alias the input, which must not change.
package wire

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/parley-p2p/parley/chain"
)

// Both are the sender's fault, see [Fault].
var (
	// ErrMalformed means that bytes do not decode.
	ErrMalformed = errors.New("malformed")
	// ErrTooLarge means that a length is over its limit.
	ErrTooLarge = errors.New("too large")
)

// Limits in bytes of whole messages: of a frame on a stream, or of the body of
// a claim on a topic.
const (
	MaxVersion      = 4 << 10
	MaxVerack       = 4 << 10
	MaxGoodbye      = 512
	MaxGenesis      = 256 << 10
	MaxRecords      = 256 << 10 // topic record and protocol records
	MaxOffer        = 132 << 10 // of ids, and its answer
	MaxSyncRequest  = 64 << 10
	MaxSyncAnswer   = 512 << 10 // each frame
	MaxAnnouncement = 32 << 10  // topic block
	MaxSubtree      = 16 << 10
	MaxMiningOn     = 2 << 10
	MaxRejectedTx   = 1 << 10
	MaxBestBlock    = 512
	MaxNodeStatus   = 4 << 10
)

// Fault turns ErrMalformed and ErrTooLarge into the [chain.InvalidError] that
// charges the sender. All else, a cut stream among it, is returned as it is.
func Fault(err error) error {
	switch {
	case errors.Is(err, ErrTooLarge):
		return chain.Invalid(chain.Oversize, "%v", err)
	case errors.Is(err, ErrMalformed):
		return chain.Invalid(chain.Malformed, "%v", err)
	}
	return err
}

// frameStep is how much of a frame is taken on the word of its length alone;
// more is taken as it comes, so a peer that stalls holds little memory.
const frameStep = 64 << 10

// ReadFrame reads one frame of at most max bytes, and not a byte beyond it.
// It returns ErrTooLarge before it takes memory, io.EOF only at a frame's
// border and io.ErrUnexpectedEOF inside a frame.
func ReadFrame(r io.Reader, max int) ([]byte, error) {
	n, err := readLength(r)
	if err != nil {
		return nil, err
	}
	if max < 0 || n > uint64(max) {
		return nil, fmt.Errorf("%w: frame of %d bytes, limit %d", ErrTooLarge, n, max)
	}
	size := int(n)
	p := make([]byte, min(size, frameStep))
	for have := 0; ; {
		m, err := io.ReadFull(r, p[have:])
		have += m
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("read frame, %d of %d bytes: %w", have, size, err)
		}
		if have == size {
			return p, nil
		}
		grown := make([]byte, min(2*have, size))
		copy(grown, p)
		p = grown
	}
}

// readLength reads a uvarint in its shortest form.
func readLength(r io.Reader) (uint64, error) {
	var n uint64
	var one [1]byte
	for shift := 0; shift < 63; shift += 7 {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			if shift == 0 && errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("read frame length: %w", err)
		}
		n |= uint64(one[0]&0x7f) << shift
		if one[0] < 0x80 {
			if one[0] == 0 && shift > 0 {
				return 0, fmt.Errorf("%w: frame length is not in its shortest form", ErrMalformed)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: frame length has more than 63 bits", ErrMalformed)
}

// WriteFrame writes p as one frame with one Write.
func WriteFrame(w io.Writer, p []byte) error {
	b := make([]byte, 0, protowire.SizeBytes(len(p)))
	if _, err := w.Write(protowire.AppendBytes(b, p)); err != nil {
		return fmt.Errorf("write frame of %d bytes: %w", len(p), err)
	}
	return nil
}
