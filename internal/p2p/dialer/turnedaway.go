package dialer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/parley-p2p/parley/internal/wire"
)

// ownRefusal says in words why err came of a dial of p, where this node refuses
// to dial it.
func (d *Dialer) ownRefusal(p peer.ID, err error) error {
	var dial *swarm.DialError
	if d.fns.Refusal == nil || !errors.Is(err, swarm.ErrGaterDisallowedConnection) || errors.As(err, &dial) && len(dial.DialErrors) > 0 {
		return err
	}
	if why := d.fns.Refusal(p); why != "" {
		return &knownError{ClassBanned, why, err}
	}
	return err
}

// greet makes p ready, to whom c goes. Where p hung up with a code, the error
// tells it: a dial ends well before p looks at who comes.
func (d *Dialer) greet(ctx context.Context, p peer.ID, c network.Conn) error {
	err := d.fns.Greet(ctx, p)
	var refusal Refusal
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	if c.IsClosed() {
		if said := codeOf(ctx, c); said != nil {
			err = said
		}
	}
	return fmt.Errorf("greet %s: %w", p, &addrError{c.RemoteMultiaddr(), err})
}

const mendBan = "ask its operator why, and to lift it (parley bans remove, with the peer id or the address of this node)"

// wordsOfGoodbye says what a peer said that left us, where that matters to who
// wants it; "" = there is nothing to say.
func wordsOfGoodbye(code uint64) string {
	switch code {
	case wire.GoodbyeBanned:
		return "it says that it has banned this node: " + mendBan
	case wire.GoodbyeBadScore:
		return "it says that this node behaves badly: compare version, chain and clock of both"
	case wire.GoodbyeTooManyPeers:
		return "it says that it has too many peers"
	case wire.GoodbyeWrongNetwork:
		return "it says that it is of another network"
	}
	return ""
}

// hungUp reports whether somebody was there and closed the connection without a
// word, as who bans us does.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, network.ErrReset) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || remoteSays(err, network.ConnGated)
}

// codeOf is the code with which the other side closed c, which is closed; nil =
// with none.
func codeOf(ctx context.Context, c network.Conn) error {
	st, err := c.NewStream(ctx) // its error is that of the connection
	if err == nil {
		_ = st.Reset()
		return nil
	}
	var said *network.ConnError
	if errors.As(err, &said) && said.Remote && said.ErrorCode != network.ConnNoError {
		return said
	}
	return nil
}
