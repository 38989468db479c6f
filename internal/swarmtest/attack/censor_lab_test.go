package attack

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
)

// E7: a part of the peers are in every mesh and pass nothing on.

const (
	censorDials = 10 // of each peer: about twenty links, more than a mesh takes
	censorTalk  = 500 * time.Millisecond
)

// censorResult is what came of one run.
type censorResult struct {
	took []time.Duration // in order
	want int
	lone int // honest nodes that have no honest peer
}

// censored runs size peers of which percent are droppers.
func censored(t *testing.T, k meshKind, size, percent int, lasting time.Duration, seed uint64) (res censorResult) {
	t.Helper()
	inMesh(t, k, seed, func(l *meshLab) {
		honest := make([]*meshNode, size)
		hosts := make([]host.Host, size)
		dial := make([]func(to host.Host), size)
		droppers := map[int]bool{}
		for _, i := range l.rand.Perm(size)[:size*percent/100] {
			droppers[i] = true
		}
		for i := range size {
			if droppers[i] {
				d := l.dropper()
				greet := l.greeter(d)
				hosts[i] = d
				dial[i] = func(to host.Host) { meshMust(l.t, meshDial(l.ctx, d, greet, to)) }
				continue
			}
			honest[i] = l.node()
			hosts[i], dial[i] = honest[i].Host, honest[i].dial
		}
		friends := map[int]bool{}
		for i := range size {
			for _, j := range l.rand.Perm(size)[:censorDials] {
				if j == i {
					continue
				}
				dial[i](hosts[j])
				if honest[i] != nil && honest[j] != nil {
					friends[i], friends[j] = true, true
				}
			}
		}
		var all []*meshNode
		for i, n := range honest {
			if n != nil {
				all = append(all, n)
				if !friends[i] {
					res.lone++
				}
			}
		}
		time.Sleep(30 * time.Second)
		tr := l.talk(all, 0, censorTalk, lasting)
		time.Sleep(10 * time.Second)
		res.took, res.want = tr.arrivals(all...)
	})
	return res
}

// dropper is a peer in good standing but for one thing: it takes messages, in
// meshes too, and neither passes them on nor tells that it has them.
func (l *meshLab) dropper() host.Host {
	h := l.host()
	var opts []pubsub.Option
	if l.kind == meshOurs {
		opts = append(opts, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(), pubsub.WithMessageIdFn(func(m *pb.Message) string {
			sum := sha256.Sum256(m.Data)
			return string(sum[:20])
		}))
	}
	ps, err := pubsub.NewGossipSub(l.ctx, h, opts...)
	meshMust(l.t, err)
	meshMust(l.t, ps.RegisterTopicValidator(meshTopic, func(context.Context, peer.ID, *pubsub.Message) pubsub.ValidationResult {
		return pubsub.ValidationIgnore
	}))
	topic, err := ps.Join(meshTopic)
	meshMust(l.t, err)
	_, err = topic.Subscribe()
	meshMust(l.t, err)
	return h
}
