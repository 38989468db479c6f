package host

import (
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/event"
	ma "github.com/multiformats/go-multiaddr"
)

// SetAdvertise replaces the addresses that are told to peers before our own
// ones; see [Advertise]. Connected peers are told at once, and no listener is
// touched.
func (h *Host) SetAdvertise(addrs []ma.Multiaddr) error {
	h.setAdvertise(addrs)
	// The library looks at its addresses every few seconds, and at once when those
	// of relays change. This node has none of these, before and after.
	told, err := h.EventBus().Emitter(new(event.EvtAutoRelayAddrsUpdated))
	if err != nil {
		return fmt.Errorf("tell of the addresses: %w", err)
	}
	defer told.Close()
	if err := told.Emit(event.EvtAutoRelayAddrsUpdated{}); err != nil {
		return fmt.Errorf("tell of the addresses: %w", err)
	}
	return nil
}

func (h *Host) setAdvertise(addrs []ma.Multiaddr) {
	addrs = slices.Clone(addrs)
	h.advertise.Store(&addrs)
}

// advertised puts the configured addresses before own.
func (h *Host) advertised(own []ma.Multiaddr) []ma.Multiaddr {
	return unique(append(slices.Clone(*h.advertise.Load()), own...))
}

// Addrs are the addresses that peers are told, the configured ones first.
func (h *Host) Addrs() []ma.Multiaddr { return h.advertised(h.Host.Addrs()) }
