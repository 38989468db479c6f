package sidecar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	maxNames    = 32                     // topics, and as many protocols
	maxName     = 64                     // bytes of a program's name
	timeToSpare = 250 * time.Millisecond // for a message to come to its ask, beyond the ask itself
)

// topic is a topic as its messages are judged now.
type topic struct {
	max      int
	validate bool
}

// served is what the p2p wing serves for us.
type served struct {
	topics    map[string]int // name → bytes of a message
	protocols map[string]bool
	ever      map[string]bool // topics of this run
}

func newServed() served {
	return served{topics: map[string]int{}, protocols: map[string]bool{}, ever: map[string]bool{}}
}

// check says what is wrong with a Hello.
func (s *Sidecar) check(h Hello) error {
	switch {
	case h.API != APIVersion:
		return badInput("hello.api is %d: this node speaks %d", h.API, APIVersion)
	case len(h.Name) > maxName || !utf8.ValidString(h.Name) || strings.ContainsFunc(h.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return badInput("hello.name %q: want printable text of at most %d bytes", cut(h.Name), maxName)
	case len(h.Status) > wire.MaxAppStatus:
		return &SizeError{fmt.Sprintf("hello.status has %d bytes, at most %d ride in the handshake", len(h.Status), wire.MaxAppStatus)}
	}
	s.mu.Lock()
	genesis := s.genesis
	s.mu.Unlock()
	if !genesis.IsZero() && !h.Genesis.IsZero() && genesis != h.Genesis {
		return badInput("hello.genesis_hash is %s, and this node told its peers %s: restart it to change the chain", h.Genesis, genesis)
	}
	_, _, err := s.wanted(h)
	return err
}

// wanted is what the configuration and the program have served, the program's
// word before the configuration's.
func (s *Sidecar) wanted(h Hello) (map[string]topic, []string, error) {
	topics := map[string]topic{}
	for _, t := range s.cfg.Topics {
		most, err := s.cfg.Limits(t)
		if err != nil {
			return nil, nil, badInput("sidecar.topics: %s: %v", t.Name, err)
		}
		topics[t.Name] = topic{most, t.Validate}
	}
	seen := map[string]bool{}
	for _, t := range h.Topics {
		if err := s.checkTopic(t, seen); err != nil {
			return nil, nil, err
		}
		if t.MaxBytes == 0 {
			t.MaxBytes = int(s.cfg.MaxMessage)
		}
		seen[t.Name] = true
		topics[t.Name] = topic{t.MaxBytes, t.Validate}
	}
	protocols := slices.Clone(s.cfg.Protocols)
	for _, p := range h.Protocols {
		if !config.SidecarName(p) {
			return nil, nil, badInput("protocol %q: want %s", cut(p), config.SidecarNameRule)
		}
		if !slices.Contains(protocols, p) {
			protocols = append(protocols, p)
		}
	}
	if len(topics) > maxNames || len(protocols) > maxNames {
		return nil, nil, badInput("%d topics and %d protocols: at most %d each", len(topics), len(protocols), maxNames)
	}
	return topics, protocols, nil
}

func (s *Sidecar) checkTopic(t Topic, seen map[string]bool) error {
	switch {
	case !config.SidecarName(t.Name):
		return badInput("topic %q: want %s", cut(t.Name), config.SidecarNameRule)
	case slices.Contains(s.cfg.Reserved, t.Name):
		return badInput("topic %q is one of every node: choose another name", t.Name)
	case seen[t.Name]:
		return badInput("topic %q is declared twice", t.Name)
	case t.MaxBytes < 0 || t.MaxBytes > int(s.cfg.MaxMessage):
		return badInput("topic %q: max_bytes %d: want 1 to %d, which is sidecar.max_message, at most 1MiB in this version", t.Name, t.MaxBytes, s.cfg.MaxMessage)
	}
	return nil
}

// serve has what the configuration and h declare served, and nothing else. It
// is called by the loop.
func (s *Sidecar) serve(ctx context.Context, h Hello) error {
	topics, protocols, err := s.wanted(h)
	if err != nil {
		return err
	}
	services, err := s.wing()
	if err != nil {
		return err
	}
	for name := range topics {
		if !s.served.ever[name] && len(s.served.ever) >= maxEver {
			return badInput("topic %q: %d different topics were declared since the start: restart the node", name, maxEver)
		}
		s.served.ever[name] = true
	}
	var noTopics, noProtocols []string
	for name, most := range s.served.topics {
		if t, ok := topics[name]; !ok || t.max != most {
			noTopics = append(noTopics, name)
			delete(s.served.topics, name)
		}
	}
	for name := range s.served.protocols {
		if !slices.Contains(protocols, name) {
			noProtocols = append(noProtocols, s.protocolID(name))
			delete(s.served.protocols, name)
		}
	}
	if err := services.Withdraw(noTopics, noProtocols); err != nil {
		return err
	}
	s.mu.Lock()
	s.topics = topics
	s.mu.Unlock()
	var newTopics []chain.Topic
	for name, t := range topics {
		if _, ok := s.served.topics[name]; !ok {
			newTopics = append(newTopics, s.topic(name, t.max))
			s.served.topics[name] = t.max
		}
	}
	var newProtocols []chain.Protocol
	for _, name := range protocols {
		if !s.served.protocols[name] {
			newProtocols = append(newProtocols, chain.Protocol{ID: s.protocolID(name), Handle: s.answerer(name)})
			s.served.protocols[name] = true
		}
	}
	return services.Serve(ctx, newTopics, newProtocols)
}

func (s *Sidecar) topic(name string, most int) chain.Topic {
	s.metrics.declare(name)
	return chain.Topic{
		Name: name, MaxBytes: most, Timeout: s.cfg.ValidateTimeout + timeToSpare, AtOnce: maxAsks,
		Validate: func(ctx context.Context, m chain.Message) error { return s.judge(ctx, name, m) },
	}
}

func (s *Sidecar) protocolID(name string) string {
	return "/parley/" + s.id.Net + "/app/" + name + "/1"
}
