package parley

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// Ban is one ban.
type Ban = reputation.Ban

// BanRequest asks for one.
type BanRequest = reputation.BanRequest

// BanConflictError refuses a ban that is likely a mistake, such as of one's own
// trusted peer. BanRequest.Force overrides it.
type BanConflictError = reputation.ConflictError

// Faults of bans.
var (
	ErrNotBanned = reputation.ErrNotBanned
	ErrBansFull  = reputation.ErrBansFull
	ErrBadBan    = errors.New("the request is wrong")
)

// openReputation reads who is banned before there is a host: nobody slips in.
func (n *Node) openReputation(key crypto.PrivKey) (err error) {
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return err
	}
	c := n.cfg.Bans
	cfg := reputation.BansConfig{Self: self, Dir: n.cfg.DataDir, Duration: c.Duration, Max: c.MaxEntries, TrustFleet: c.TrustFleet}
	switch {
	case strings.Contains(c.Store, "://"):
		cfg.Postgres = c.Store
	case !n.env.NoBans:
		cfg.File = n.cfg.Path(c.Store)
	}
	if n.bans, err = reputation.OpenBans(context.Background(), cfg, n.bus, n.room("p2p.bans")); err != nil {
		return &StartError{Code: 104, Err: fmt.Errorf("bans.store: %w", err)}
	}
	book := reputation.Config{Threshold: c.Threshold, Bans: n.bans, Alarms: n.alarms, File: filepath.Join(n.cfg.DataDir, "reputation.json")}
	if n.rep, err = reputation.New(book, n.bus, n.room("p2p.reputation"), n.env.Registry); err != nil {
		return err
	}
	n.rep.Allow(allowed(n.cfg.P2P, self))
	n.gate = reputation.NewGate(n.rep)
	return nil
}

// importBans bans whom the files of bans.import name, and tells how many of
// them were not banned before. A wrong line is told and left out, and so is what
// finds no place in a full list: neither keeps a node from its start.
func (n *Node) importBans(ctx context.Context, cfg config.Config) (added int, err error) {
	var full []string
	defer func() {
		n.foundMu.Lock()
		defer n.foundMu.Unlock()
		n.unbanned = full
	}()
	for _, name := range cfg.Bans.Import {
		f, err := os.Open(cfg.Path(name))
		if err != nil {
			return added, &StartError{Code: 101, Err: fmt.Errorf("bans.import: %w", err)}
		}
		sum, err := n.ImportBans(ctx, f, importKey, false)
		added += sum.Added
		if errors.Is(err, ErrBansFull) {
			n.room("p2p.bans").Warn("targets not banned", "file", name, "err", err)
			full, err = append(full, name+": "+err.Error()), nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return added, fmt.Errorf("bans.import %s: %w", name, err)
		}
		for _, r := range sum.Refused {
			n.room("p2p.bans").Warn("target not banned", "file", name, "line", r.Line, "why", r.Why)
		}
		n.room("p2p.bans").Info("bans imported", "file", name, "added", sum.Added, "known", sum.Known, "refused", sum.RefusedLines)
	}
	return added, nil
}

// factsOf tells reputation where p is. Who is ours has no address to be banned.
func (n *Node) factsOf(p peer.ID) (f reputation.Facts) {
	for _, c := range n.host.Network().ConnsToPeer(p) {
		f.Outbound = f.Outbound || c.Stat().Direction == network.DirOutbound
		if a := reputation.AddrOf(c.RemoteMultiaddr()); a.IsValid() && !c.Stat().Limited {
			f.Addr = a
		}
	}
	if slices.Contains(n.protected().Addrs, f.Addr) {
		f.Addr = netip.Addr{}
	}
	return f
}

// protected is whom nobody bans by mistake: we, and those whom the operator wants.
func (n *Node) protected() reputation.Protected {
	all := reputation.Protected{Self: n.host.ID()}
	add := func(addrs []multiaddr.Multiaddr) {
		for _, a := range addrs {
			if ip := reputation.AddrOf(a); ip.IsValid() && !slices.Contains(all.Addrs, ip) {
				all.Addrs = append(all.Addrs, ip)
			}
		}
	}
	add(n.host.Addrs())
	for _, s := range n.dial.Wanted() {
		all.Peers = append(all.Peers, s)
		add(n.host.Peerstore().Addrs(s))
		for _, c := range n.host.Network().ConnsToPeer(s) {
			add([]multiaddr.Multiaddr{c.RemoteMultiaddr()})
		}
	}
	return all
}

// covered are the connected peers that a ban of t cuts off.
func (n *Node) covered(t reputation.Target) []peer.ID {
	list := []peer.ID{}
	for _, c := range n.host.Network().Conns() {
		if p := c.RemotePeer(); t.Covers(p, reputation.AddrOf(c.RemoteMultiaddr())) && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// Ban bans a peer, an address or a range. When it returns the ban is on disk
// and holds; closes are the connected peers that it cuts off. With dryRun
// nothing changes: it says what would be.
func (n *Node) Ban(ctx context.Context, r BanRequest, dryRun bool) (b Ban, closes []peer.ID, err error) {
	if r.Target, err = n.banTarget(r.Target); err != nil {
		return Ban{}, nil, err
	}
	if dryRun {
		b, closes, err = n.bans.Plan(r)
	} else {
		b, closes, err = n.bans.Add(ctx, r)
	}
	return b, closes, banFault(err)
}

// banTarget puts its id in the place of the end or the beginning of one, as
// [Node.FindPeer] finds it, among the banned too. Names are for the taking: by
// those nobody is banned. What stands for nobody is left to the reader of targets.
func (n *Node) banTarget(text string) (string, error) {
	short, ok := parseShort(text)
	if _, err := reputation.ParseTarget(text); err == nil || !ok {
		return text, nil //nolint:nilerr // it says what is wrong when it is read
	}
	found := n.byShort(text)
	for _, b := range n.bans.List(false, func(b *Ban) bool { return b.Kind == reputation.KindPeer }) {
		if id, err := peer.Decode(b.Target); err == nil && short.fits(id) {
			found = append(found, id)
		}
	}
	if len(found) == 0 {
		if strings.Contains(text, "…") || strings.Contains(text, "...") {
			return "", &unknownPeerError{strings.TrimSpace(text)}
		}
		return text, nil
	}
	id, err := n.only(text, found)
	return id.String(), err
}

// banFault tells what the caller did wrong from what went wrong here.
func banFault(err error) error {
	var conflict *BanConflictError
	var bad *reputation.RequestError
	switch {
	case err == nil || errors.As(err, &conflict) || errors.Is(err, ErrBansFull) || errors.Is(err, ErrNotBanned):
		return err
	case errors.As(err, &bad):
		return fmt.Errorf("%w: %w", ErrBadBan, err)
	}
	return err
}

// Unban lifts every ban of exactly this target. An address that a banned range
// covers stays banned: the error says by which.
func (n *Node) Unban(ctx context.Context, target, actor string) error {
	target, err := n.banTarget(target)
	if err != nil {
		return err
	}
	t, err := reputation.ParseTarget(target)
	if err != nil {
		return banFault(err)
	}
	err = n.bans.Remove(ctx, t, actor)
	if b, ok := n.bans.Check(t); errors.Is(err, ErrNotBanned) && ok {
		return fmt.Errorf("%s: %w itself: %s covers it, remove that", t, ErrNotBanned, b.Target)
	}
	if errors.Is(err, ErrNotBanned) {
		return fmt.Errorf("%s: %w: parley bans list tells who is", t, err)
	}
	return err
}

// BanOf is the ban that covers target, nil = it is not banned.
func (n *Node) BanOf(target string) (*Ban, error) {
	target, err := n.banTarget(target)
	if err != nil {
		return nil, err
	}
	t, err := reputation.ParseTarget(target)
	if err != nil {
		return nil, banFault(err)
	}
	if b, ok := n.bans.Check(t); ok {
		return &b, nil
	}
	return nil, nil //nolint:nilnil // not banned is an answer
}

// Bans lists the bans that hold, newest first, with all also those that ended
// in the last 30 days. Kind and origin "" are any.
func (n *Node) Bans(kind, origin string, all bool) []Ban {
	return n.bans.List(all, func(b *Ban) bool { return (kind == "" || b.Kind == kind) && (origin == "" || b.Origin == origin) })
}

// ClearBans lifts the bans of an origin, or with "all" every one, and tells how
// many targets that were.
func (n *Node) ClearBans(ctx context.Context, origin, actor string) (int, error) {
	removed, err := n.bans.Clear(ctx, origin, actor)
	return removed, banFault(err)
}

// BanImport tells what came of an import.
type BanImport = reputation.Import

// ImportBans bans what r lists: a target a line, or a ban as JSON as an export
// has it. Empty lines and what follows a # are left out.
func (n *Node) ImportBans(ctx context.Context, r io.Reader, actor string, force bool) (BanImport, error) {
	sum, err := n.bans.Import(ctx, r, actor, force)
	return sum, banFault(err)
}

// bansCheck is about the store of bans. A database that is away takes no node
// out: it works from memory, as long as it can note down what it bans.
func (n *Node) bansCheck() Check {
	c := Check{Name: "bans", OK: true}
	waiting, err := n.bans.Pending()
	switch {
	case err != nil:
		c.OK, c.Note = false, "the store is away and the journal of bans cannot be written: "+err.Error()
	case waiting > 0:
		c.Note = fmt.Sprintf("working from memory: %d changes wait for bans.store", waiting)
	}
	return c
}
