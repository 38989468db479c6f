package sidecar

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	maxNames = 32 // topics, and as many protocols
	maxName  = 64 // bytes of a program's name
)

// topic is a topic as its messages are judged now.
type topic struct {
	max      int
	validate bool
}

// declared is what the configuration and a program want served.
type declared struct {
	topics    map[string]topic
	protocols []string
}

// served is what the p2p wing serves for us.
type served struct {
	topics    map[string]topic // by name; unsure = it may be served or not
	protocols map[string]bool
	ever      map[string]bool // topics of this run
	now       declared        // which is what is served, but after an error that was not undone
}

var unsure = topic{max: -1} // the wing could not end it

func newServed() served {
	return served{topics: map[string]topic{}, protocols: map[string]bool{}, ever: map[string]bool{}}
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
	_, err := s.wanted(h)
	return err
}

// wanted is what the configuration and the program have served, the program's
// word before the configuration's.
func (s *Sidecar) wanted(h Hello) (declared, error) {
	topics := map[string]topic{}
	for _, t := range s.cfg.Topics {
		most, err := s.cfg.Limits(t)
		if err != nil {
			return declared{}, badInput("sidecar.topics: %s: %v", t.Name, err)
		}
		topics[t.Name] = topic{most, t.Validate}
	}
	seen := map[string]bool{}
	for _, t := range h.Topics {
		if err := s.checkTopic(t, seen); err != nil {
			return declared{}, err
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
			return declared{}, badInput("protocol %q: want %s", cut(p), config.SidecarNameRule)
		}
		if !slices.Contains(protocols, p) {
			protocols = append(protocols, p)
		}
	}
	if len(topics) > maxNames || len(protocols) > maxNames {
		return declared{}, badInput("%d topics and %d protocols: at most %d each", len(topics), len(protocols), maxNames)
	}
	return declared{topics, protocols}, nil
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
		return badInput("topic %q: max_bytes %d: want 1 to %d, which is sidecar.max_message, at most 10MiB: %s", t.Name, t.MaxBytes, s.cfg.MaxMessage, config.SidecarLonger)
	}
	return nil
}

// serve has what the configuration and h declare served, and nothing else. On
// an error it goes back to what was served; where that fails too, the next
// call mends it. It is called by the loop.
func (s *Sidecar) serve(ctx context.Context, h Hello) error {
	want, err := s.wanted(h)
	if err != nil {
		return err
	}
	services, err := s.wing()
	if err != nil {
		return err
	}
	count := len(s.served.ever)
	for name := range want.topics {
		if !s.served.ever[name] {
			if count++; count > maxEver {
				return badInput("topic %q: %d different topics were declared since the start: restart the node", name, maxEver)
			}
		}
	}
	err = s.change(ctx, services, want)
	if err == nil {
		s.served.now = want
		return nil
	}
	if back := s.change(ctx, services, s.served.now); back != nil {
		s.log.Warn("topics and requests are served in part: attach the program again", "err", err, "undo", back)
	}
	return err
}

// change serves want and nothing else. After an error s.served tells what is
// served still, or already.
func (s *Sidecar) change(ctx context.Context, services chain.Services, want declared) error {
	var noTopics, noProtocols []string
	for name, is := range s.served.topics {
		if t, ok := want.topics[name]; !ok || t != is {
			noTopics = append(noTopics, name)
			s.served.topics[name] = unsure
		}
	}
	for name := range s.served.protocols {
		if !slices.Contains(want.protocols, name) {
			noProtocols = append(noProtocols, s.protocolID(name))
		}
	}
	if err := services.Withdraw(noTopics, noProtocols); err != nil {
		return err
	}
	maps.DeleteFunc(s.served.topics, func(_ string, t topic) bool { return t == unsure })
	maps.DeleteFunc(s.served.protocols, func(name string, _ bool) bool { return !slices.Contains(want.protocols, name) })
	s.mu.Lock()
	s.topics = want.topics
	s.mu.Unlock()
	var newTopics []chain.Topic
	for name, t := range want.topics {
		if _, ok := s.served.topics[name]; !ok {
			newTopics = append(newTopics, s.topic(name, t))
			s.served.ever[name] = true // it has metrics now
		}
	}
	var newProtocols []chain.Protocol
	for _, name := range want.protocols {
		if !s.served.protocols[name] {
			newProtocols = append(newProtocols, chain.Protocol{ID: s.protocolID(name), Handle: s.answerer(name)})
		}
	}
	if err := services.Serve(ctx, newTopics, newProtocols); err != nil {
		return err // and serves none of them
	}
	maps.Copy(s.served.topics, want.topics)
	for _, name := range want.protocols {
		s.served.protocols[name] = true
	}
	return nil
}

func (s *Sidecar) topic(name string, t topic) chain.Topic {
	n := named{name, s.metrics.declare(name)}
	return chain.Topic{
		Name: name, MaxBytes: t.max, Large: true, Quick: !t.validate, Timeout: -1, AtOnce: maxAsks,
		Validate: func(ctx context.Context, m chain.Message) error { return s.judge(ctx, n, m) },
	}
}

func (s *Sidecar) protocolID(name string) string {
	return "/parley/" + s.id.Net + "/app/" + name + "/1"
}
