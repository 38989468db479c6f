package dialer

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
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
	if err == nil || errors.As(err, &refusal) || !c.IsClosed() {
		return err
	}
	if said := codeOf(ctx, c); said != nil {
		return fmt.Errorf("greet %s: %w", p, &addrError{c.RemoteMultiaddr(), said})
	}
	return err
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
