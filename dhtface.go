package parley

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/wire"
)

// Errors of the DHT by hand; [ErrNotFound] is one too.
var (
	ErrBadDHT      = errors.New("bad request to the DHT") // the caller's fault
	ErrDHTValue    = fmt.Errorf("a value of the DHT has at most %d bytes", wire.MaxDHTData)
	ErrDHTOff      = discovery.ErrOff
	ErrDHTFull     = discovery.ErrFull
	ErrDHTNotReady = errors.New("the DHT cannot do it now")
)

// DHT is how the DHT stands.
type DHT struct {
	Mode        string `json:"mode"` // server | client | off | waiting, for the chain
	Auto        bool   `json:"auto"` // the node chose the mode
	Protocol    string `json:"protocol"`
	Peers       int    `json:"peers"`        // in the table
	NetworkSize int    `json:"network_size"` // estimated; 0 = not known
	RegionAlarm bool   `json:"region_alarm"`
	Values      int    `json:"values"`    // kept for others
	Providers   int    `json:"providers"` // entries kept for others
	Published   int    `json:"published"` // values and keys of ours, which are told again each 12 h
}

// DHTBucket is a part of the table: peers whose hashed ids share so many
// leading bits with ours.
type DHTBucket struct {
	Bits  int            `json:"bits"`
	Peers []DHTTablePeer `json:"peers"`
}

// DHTTablePeer is a peer of the table.
type DHTTablePeer struct {
	DHTPeer
	Group    string    `json:"group"`
	AddedAt  time.Time `json:"added_at"`
	UsefulAt time.Time `json:"useful_at,omitzero"` // its last answer
}

// DHTPeer is a peer and where it is said to be.
type DHTPeer struct {
	ID        peer.ID  `json:"id"`
	Addresses []string `json:"addresses"`
}

// ClassEnough is the class of a step whose answer was not waited for: what the
// others said was enough.
const ClassEnough = "enough"

// DHTStep is one question of a query.
type DHTStep struct {
	Path  int       `json:"path"` // from 1; 0 = of the nearest ones, after the paths have ended
	Asked peer.ID   `json:"asked"`
	Got   int       `json:"got"`            // peers that it told of
	Told  []peer.ID `json:"told,omitempty"` // of them, whom the query took note of
	MS    float64   `json:"ms"`
	Class string    `json:"class,omitempty"` // of why it did not answer, as of a static peer, or enough: it was not waited for; absent = it did
	Error string    `json:"error,omitempty"`
}

// DHTQuery tells how a query went.
type DHTQuery struct {
	Paths int       `json:"paths"`
	Steps []DHTStep `json:"steps"`
	Dense bool      `json:"dense"` // the nearest peers looked like one attacker's: more were asked
}

// DHTNodes is what a query for peers found, nearest first.
type DHTNodes struct {
	Peers  []DHTPeer `json:"peers"`
	Hashed string    `json:"hashed,omitempty"` // of providers: the CID that stands for a key which is none
	DHTQuery
}

// DHTValue is a signed value of the DHT.
type DHTValue struct {
	Key           string    `json:"key"` // /parley/KIND/AUTHOR
	Value         []byte    `json:"value"`
	Author        peer.ID   `json:"author"`
	Seq           uint64    `json:"seq"`
	IssuedAt      time.Time `json:"issued_at"`
	Copies        int       `json:"copies"`         // peers that gave, or took, just this value
	Quorum        int       `json:"quorum"`         // of copies that was asked for; 0 = none
	QuorumReached bool      `json:"quorum_reached"` // true without one
	Disagreement  bool      `json:"disagreement"`   // other valid values came over other paths
	DHTQuery
}

// DHTCrawled is a peer that a crawl met.
type DHTCrawled struct {
	DHTPeer
	OK        bool    `json:"ok"`
	Neighbors int     `json:"neighbors"` // peers of its table that it told of
	Class     string  `json:"class,omitempty"`
	Error     string  `json:"error,omitempty"`
	MS        float64 `json:"ms"`
}

// DHT tells how the DHT stands.
func (n *Node) DHT() DHT {
	s := n.disc.Status()
	d := DHT{
		Mode: s.Mode, Auto: s.Auto, Protocol: s.Protocol, Peers: s.Peers, NetworkSize: s.NetworkSize, RegionAlarm: s.RegionAlarm,
		Values: s.Values, Providers: s.Providers, Published: s.Published,
	}
	if s.Protocol == "" && n.cfg.Discovery.DHT != config.DHTOff {
		d.Mode = "waiting"
	}
	return d
}

// DHTTable lists the table of the DHT, far buckets first.
func (n *Node) DHTTable() ([]DHTBucket, error) {
	buckets, err := n.disc.Table()
	if err != nil {
		return nil, dhtFault(err)
	}
	list := make([]DHTBucket, len(buckets))
	for i, b := range buckets {
		list[i] = DHTBucket{Bits: b.Bits, Peers: make([]DHTTablePeer, len(b.Peers))}
		for j, p := range b.Peers {
			list[i].Peers[j] = DHTTablePeer{DHTPeer: viewInfo(p.AddrInfo), Group: p.Group, AddedAt: inMS(p.AddedAt)}
			if !p.UsefulAt.IsZero() {
				list[i].Peers[j].UsefulAt = inMS(p.UsefulAt)
			}
		}
	}
	return list, nil
}

// FindNode looks for a peer and for those nearest to its id, within 60 s.
func (n *Node) FindNode(ctx context.Context, id peer.ID) (DHTNodes, error) {
	found, err := n.disc.FindNode(ctx, id, nil)
	return viewNodes(found.Peers, found.Query), dhtFault(err)
}

// FindProviders looks for up to limit peers, 0 = 20, that provide what a CID,
// or any other text, names. What it finds is where to dial, and no proof.
func (n *Node) FindProviders(ctx context.Context, text string, limit int) (DHTNodes, error) {
	key, err := discovery.ProviderKey(text)
	if err != nil {
		return DHTNodes{}, fmt.Errorf("%w: %w", ErrBadDHT, err)
	}
	found, err := n.disc.FindProviders(ctx, key, limit, nil)
	v := viewNodes(found.Peers, found.Query)
	v.Hashed = hashed(text, key)
	return v, dhtFault(err)
}

// Provide tells that this node has what a CID, or any other text, names, now
// and each 12 h, over restarts too. It answers with the peers that took it.
func (n *Node) Provide(ctx context.Context, text string) (DHTNodes, error) {
	key, err := discovery.ProviderKey(text)
	if err != nil {
		return DHTNodes{}, fmt.Errorf("%w: %w", ErrBadDHT, err)
	}
	stored, err := n.disc.Provide(ctx, key, nil)
	v := viewNodes(stored.By, stored.Query)
	v.Hashed = hashed(text, key)
	return v, dhtFault(err)
}

// hashed is the CID of key where text is none.
func hashed(text string, key []byte) string {
	if discovery.IsCID(text) {
		return ""
	}
	return discovery.CIDOf(key)
}

// dhtKey reads the key of a value: /parley/KIND/AUTHOR, or KIND alone, of which
// this node is the author.
func (n *Node) dhtKey(text string) (key string, author peer.ID, err error) {
	if key = text; !strings.Contains(text, "/") {
		key = discovery.Key(text, n.host.ID())
	}
	if _, author, err = discovery.ParseKey(key); err != nil && key != text {
		return "", "", fmt.Errorf("%w: key %.80q: want /parley/KIND/PEER-ID, or KIND alone for a value of this node, KIND being 1 to 32 of a-z, 0-9, _ and -", ErrBadDHT, text)
	} else if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrBadDHT, err)
	}
	return key, author, nil
}

// GetDHTValue looks a value up: of those that are validly signed, the one with
// the highest sequence. It ends early once quorum peers gave the same one; 0 =
// all of the nearest are asked.
func (n *Node) GetDHTValue(ctx context.Context, text string, quorum int) (DHTValue, error) {
	key, _, err := n.dhtKey(text)
	if err != nil {
		return DHTValue{}, err
	}
	found, err := n.disc.GetValue(ctx, key, quorum, nil)
	if errors.Is(err, discovery.ErrNotFound) {
		return DHTValue{}, fmt.Errorf("%w: of the %d peers that answered none has a value of %s", ErrNotFound, answered(found.Steps), key)
	}
	v := viewValue(found.Value, found.Query)
	v.Copies, v.Quorum, v.QuorumReached, v.Disagreement = found.Copies, quorum, found.Copies >= quorum, found.Disagreement
	return v, dhtFault(err)
}

// PutDHTValue signs a value and stores it at the peers nearest to its key, which
// must be this node's own. It is told again each 12 h, over restarts too.
func (n *Node) PutDHTValue(ctx context.Context, text string, value []byte) (DHTValue, error) {
	key, author, err := n.dhtKey(text)
	switch {
	case err != nil:
		return DHTValue{}, err
	case author != n.host.ID():
		return DHTValue{}, fmt.Errorf("%w: this node signs for itself alone, the key is of %s: give the kind alone, or a key that ends in %s", ErrBadDHT, author, n.host.ID())
	case len(value) > wire.MaxDHTData:
		return DHTValue{}, fmt.Errorf("%w, this one has %d: store it elsewhere, and its hash and where it is here", ErrDHTValue, len(value))
	}
	stored, err := n.disc.PutValue(ctx, key, value, nil)
	v := viewValue(stored.Value, stored.Query)
	v.Copies, v.QuorumReached = stored.Peers, true
	return v, dhtFault(err)
}

// CrawlDHT asks each peer of the DHT for its whole table and calls progress for
// each one as it is done, by one goroutine. It ends after 10 minutes or 5,000
// peers with what it has.
func (n *Node) CrawlDHT(ctx context.Context, progress func(DHTCrawled)) error {
	_, err := n.disc.Crawl(ctx, func(c discovery.Crawled) {
		v := DHTCrawled{DHTPeer: viewInfo(c.AddrInfo), OK: c.OK, Neighbors: c.Neighbors, MS: inMSF(c.Took)}
		v.Class, v.Error = whyNot(c.Err)
		progress(v)
	})
	if err == nil {
		err = ctx.Err()
	}
	return dhtFault(err)
}

// dhtFault says whose fault an error is.
func dhtFault(err error) error {
	switch {
	case errors.Is(err, discovery.ErrNotStarted), errors.Is(err, discovery.ErrNoPeers), errors.Is(err, discovery.ErrNotStored):
		return fmt.Errorf("%w: %w", ErrDHTNotReady, err)
	}
	return err
}

func inMSF(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func viewInfo(info peer.AddrInfo) DHTPeer {
	addrs := texts(info.Addrs)
	slices.Sort(addrs) // they come in no order
	return DHTPeer{ID: info.ID, Addresses: addrs}
}

func viewNodes(list []peer.AddrInfo, q discovery.Query) DHTNodes {
	v := DHTNodes{Peers: make([]DHTPeer, len(list)), DHTQuery: viewQuery(q)}
	for i, info := range list {
		v.Peers[i] = viewInfo(info)
	}
	return v
}

func viewValue(value discovery.Value, q discovery.Query) DHTValue {
	return DHTValue{
		Key: value.Key, Value: value.Data, Author: value.Author, Seq: value.Seq, IssuedAt: inMS(value.Issued), DHTQuery: viewQuery(q),
	}
}

func viewQuery(q discovery.Query) DHTQuery {
	v := DHTQuery{Paths: q.Paths, Steps: make([]DHTStep, len(q.Steps)), Dense: q.Dense}
	for i, s := range q.Steps {
		v.Steps[i] = DHTStep{Path: s.Path, Asked: s.Asked, Got: s.Got, Told: s.Told, MS: inMSF(s.Took)}
		v.Steps[i].Class, v.Steps[i].Error = whyNot(s.Err)
	}
	return v
}

// whyNot says why a peer did not answer, in a word and in a line; nil = it did.
func whyNot(err error) (class, text string) {
	switch {
	case err == nil:
		return "", ""
	case errors.Is(err, discovery.ErrEnough):
		return ClassEnough, err.Error()
	}
	return string(dialer.Classify(err)), strings.Join(strings.Fields(err.Error()), " ")
}

// answered counts the peers that gave an answer.
func answered(steps []discovery.Step) int {
	n := 0
	for _, s := range steps {
		if s.Err == nil {
			n++
		}
	}
	return n
}
