package addrbook

import "errors"

// Why an address is not taken. Each is counted by its reason; who charges the
// sender is the caller: ErrForged and ErrTooLarge are the sender's fault, ErrRate
// is one above twice its budget, and all others cost nobody anything.
var (
	ErrForged       = errors.New("the peer record is not signed by the peer that it names")
	ErrTooLarge     = errors.New("the peer record is too large")
	ErrExpired      = errors.New("the peer record is too old")
	ErrStale        = errors.New("a newer record of the peer is known")
	ErrOtherNetwork = errors.New("the peer is of another network")
	ErrNotDialable  = errors.New("no address can be dialled from here")
	ErrRate         = errors.New("the source tells of more peers than its rate allows")
	ErrQuota        = errors.New("this kind of source has brought half of the hour's new peers")
	ErrFull         = errors.New("the address book has no place for it")
	ErrBanned       = errors.New("the peer or its address is banned")
	ErrBare         = errors.New("addresses of others are taken only in a signed peer record")
	ErrSelf         = errors.New("the peer is this node")
)

// reasons are the labels of parley_addrbook_rejected_total.
var reasons = []struct {
	err  error
	name string
}{
	{ErrForged, "forged"}, {ErrTooLarge, "too_large"}, {ErrExpired, "expired"}, {ErrStale, "stale"},
	{ErrOtherNetwork, "other_network"}, {ErrNotDialable, "not_dialable"}, {ErrRate, "rate"}, {ErrQuota, "quota"},
	{ErrFull, "full"}, {ErrBanned, "banned"}, {ErrBare, "bare"}, {ErrSelf, "self"},
}
