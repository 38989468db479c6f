package discovery

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

const (
	maxTopics   = 64
	meetVisits  = 8  // peers of a topic that are visited at one Need
	maxKeyBytes = 80 // of a provider key, as the library takes them
	netTopic    = "net"
)

// ProviderKey turns text into the key of a provider record: a CID stands for
// its multihash, any other text for its SHA-256.
func ProviderKey(text string) ([]byte, error) {
	if IsCID(text) {
		c, err := cid.Decode(text)
		return c.Hash(), err
	}
	if text == "" {
		return nil, errors.New("an empty key: give a CID or any text")
	}
	sum := sha256.Sum256([]byte(text))
	return mh.Encode(sum[:], mh.SHA2_256)
}

// IsCID tells a CID from any other text.
func IsCID(text string) bool {
	_, err := cid.Decode(text)
	return err == nil
}

// CIDOf writes the key of a provider record as the CID that stands for it.
func CIDOf(key []byte) string { return cid.NewCidV1(cid.Raw, key).String() }

func checkProviderKey(key []byte) error {
	if len(key) == 0 || len(key) > maxKeyBytes {
		return fmt.Errorf("provider key of %d bytes: want 1 to %d", len(key), maxKeyBytes)
	}
	return nil
}

// topicKey is where the peers of a topic meet.
func (k *kad) topicKey(topic string) ([]byte, error) {
	return ProviderKey("parley/rendezvous/" + k.net + "/" + topic)
}

// Advertise tells under a topic that we are there, now, each 12 h and after a
// restart. Topics are at most 64 bytes.
func (d *Discovery) Advertise(ctx context.Context, topic string) (Stored, error) {
	k, key, err := d.topic(topic)
	if err != nil {
		return Stored{}, err
	}
	k.mu.Lock()
	full := !k.topics[topic] && len(k.topics) >= maxTopics
	if !full {
		k.topics[topic] = true
	}
	k.mu.Unlock()
	if full {
		return Stored{}, fmt.Errorf("advertise %q: this node advertises %d topics already", topic, maxTopics)
	}
	return k.provideByHand(ctx, key, nil)
}

// FindTopic looks for up to limit peers that advertise a topic.
func (d *Discovery) FindTopic(ctx context.Context, topic string, limit int) (Providers, error) {
	k, key, err := d.topic(topic)
	if err != nil {
		return Providers{}, err
	}
	return k.findProviders(ctx, key, limit, nil)
}

func (d *Discovery) topic(topic string) (*kad, []byte, error) {
	k, err := d.dht()
	switch {
	case err != nil:
		return nil, nil, err
	case !d.cfg.Rendezvous:
		return nil, nil, fmt.Errorf("rendezvous: %w: set discovery.rendezvous", ErrOff)
	case topic == "" || len(topic) > 64:
		return nil, nil, fmt.Errorf("topic of %d bytes: want 1 to 64", len(topic))
	}
	key, err := k.topicKey(topic)
	return k, key, err
}

// meet visits some of those who advertise the network and whom the book does
// not know: only their own signed records are stored.
func (k *kad) meet(ctx context.Context) {
	key, err := k.topicKey(netTopic)
	if err != nil {
		return
	}
	found, err := k.findProviders(ctx, key, 0, nil)
	if err != nil {
		k.d.log.Debug("rendezvous", "err", err)
		return
	}
	visited := 0
	for _, info := range found.Peers {
		if _, known := k.d.intake.book.Get(info.ID); known || info.ID == k.d.host.ID() || len(info.Addrs) == 0 || visited == meetVisits {
			continue
		}
		visited++
		_, err := k.question(ctx, &candidate{id: info.ID, addrs: info.Addrs}, k.askNode(string(k.d.host.ID())))
		if err != nil {
			k.d.log.Debug("rendezvous", "peer", info.ID, "err", err)
		}
	}
}

// publish tells again what is due: our values, what we provide, and that this
// network's members are found here. What fails is tried again in ten minutes.
func (k *kad) publish(ctx context.Context, now time.Time) {
	if k.table().Size() == 0 {
		return
	}
	k.mu.Lock()
	if key, err := k.topicKey(netTopic); err == nil && k.d.cfg.Rendezvous {
		if _, known := k.keys[string(key)]; !known {
			k.keys[string(key)] = time.Time{}
		}
	}
	var keys, values []string
	for key, at := range k.keys {
		if now.Sub(at) >= publishEvery {
			keys = append(keys, key)
			k.keys[key] = now.Add(10*time.Minute - publishEvery)
		}
	}
	own := maps.Clone(k.own)
	for key, v := range k.own {
		if now.Sub(v.at) >= publishEvery {
			values = append(values, key)
			v.at = now.Add(10*time.Minute - publishEvery)
			k.own[key] = v
		}
	}
	k.mu.Unlock()
	slices.Sort(keys)
	for _, key := range keys {
		if _, err := k.provide(ctx, []byte(key), nil); err != nil {
			k.d.log.Debug("provide again", "err", err)
			k.mu.Lock()
			k.keys[key] = now.Add(10*time.Minute - publishEvery)
			k.mu.Unlock()
		}
	}
	for _, key := range values {
		kind, _, err := ParseKey(key)
		if err == nil {
			_, err = k.putValue(ctx, key, kind, own[key].data, true, nil)
		}
		if err != nil {
			k.d.log.Debug("put again", "key", key, "err", err)
		}
	}
	if len(keys)+len(values) > 0 {
		if err := k.keep(); err != nil {
			k.d.log.Warn("own values of the DHT not saved", "err", err)
		}
	}
}
