package discovery

import (
	"errors"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// intake is the one way from here into the book, and counts what was new to it.
// Rates and quotas are the book's.
type intake struct {
	book    *addrbook.Book
	metrics *metrics
	found   func()
}

// record takes a signed peer record. What the book refuses is returned as it is.
func (in *intake) record(src addrbook.Source, envelope []byte) error {
	id, err := signer(envelope)
	if err != nil {
		id = "" // the book says what is wrong with it
	}
	return in.take(src.Kind, id, func() error { return in.book.Add(src, envelope) })
}

// bare takes addresses without proof.
func (in *intake) bare(src addrbook.Source, info peer.AddrInfo) error {
	return in.take(src.Kind, info.ID, func() error { return in.book.AddBare(src, info) })
}

func (in *intake) take(kind addrbook.Kind, id peer.ID, add func() error) error {
	_, known := in.book.Get(id)
	if err := add(); err != nil {
		in.metrics.refuse("book")
		return err
	}
	if _, stored := in.book.Get(id); stored && !known {
		in.metrics.found.WithLabelValues(string(kind)).Inc()
		in.found()
	}
	return nil
}

// signer gives the key's owner without looking at the signature.
func signer(envelope []byte) (peer.ID, error) {
	e, err := record.UnmarshalEnvelope(envelope)
	if err != nil {
		return "", err
	}
	if e.PublicKey == nil {
		return "", errors.New("no key")
	}
	return peer.IDFromPublicKey(e.PublicKey)
}
