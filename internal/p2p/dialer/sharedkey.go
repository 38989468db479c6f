package dialer

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/pnet"
)

// aboutKey says in words where the shared key is why err came of an attempt at
// an item. Who lacks the key learns of it from the peer's API alone: on the wire
// it is hung up on without a word, as by a node that is full.
func (d *Dialer) aboutKey(it *item, who outcome, err error) error {
	own := ""
	if d.fns.SharedKey != nil {
		own = d.fns.SharedKey()
	}
	var key pnet.Error
	fault := errors.As(err, &key)
	switch {
	case err == nil:
		return nil
	case own == "" && who.private && classify(err) == ClassRefused:
		return &knownError{ClassNotAllowed, fmt.Sprintf(
			"%s is in a private network, and this node has no shared key: get the key file of that network, name it in p2p.shared_key_file and start this node again", it.text), err}
	case own != "" && fault && key.IsPNetError():
		return &knownError{ClassNotAllowed, fmt.Sprintf(
			"%s: %v, and this node dials with the key %s: give both the same p2p.shared_key_file; parley key psk show tells the keys of a node", it.text, key, own), err}
	case own != "" && fault && who.private:
		return &knownError{ClassRefused, fmt.Sprintf(
			"%s is in a private network and hung up at this node's shared key %s: it has another one, or is full; compare parley key psk show on both", it.text, own), err}
	case own != "" && fault:
		return &knownError{ClassRefused, fmt.Sprintf(
			"%s hung up without a word at this node's shared key %s: it has another one, or none, or is full; compare parley key psk show on both", it.text, own), err}
	}
	return err
}
