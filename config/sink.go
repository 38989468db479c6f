package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	gotoml "github.com/pelletier/go-toml/v2"

	"github.com/parley-p2p/parley/event"
)

// Sink is a place outside that the node's events are delivered to: one table
// [[sink]] of a file. As text, in the environment and flags, all of them are
// one list as in a file: [{ kind = "nats", url = "nats://host:4222" }].
type Sink struct {
	Kind            string   // SinkNATS or SinkKafka
	URL             string   // valid by ParseSinkURL, without a password
	Subject         string   // or topic: what it is for an event says SubjectOf
	Types           []string // globs over types of events; never empty
	CredentialsFile string   // "" = none; see Config.Path
}

// Values of Sink.Kind.
const (
	SinkNATS  = "nats"  // NATS JetStream
	SinkKafka = "kafka" // Kafka and what speaks its protocol
)

const (
	defaultSubject = "parley.{node}.{type}"
	maxSinks       = 16
	maxSubject     = 200 // bytes; with names for {node} and {type} a topic of Kafka has room for it (249)
	maxSinkTypes   = 64
	sinkKey        = "sink"
	logWritten     = "log.written"
)

// Words in a Subject that stand for what they say.
const (
	nodeWord = "{node}"
	typeWord = "{type}"
)

// SubjectOf is the subject for an event of a type on a node. Of the node's name
// only letters, digits, _ and - are kept, for . and others mean something there.
func (s Sink) SubjectOf(node, eventType string) string {
	clean := strings.Map(func(r rune) rune {
		if subjectRune(r) && r != '.' {
			return r
		}
		return '_'
	}, node)
	return strings.NewReplacer(nodeWord, clean, typeWord, eventType).Replace(s.Subject)
}

// Wants tells whether events of a type go to the sink. Lines of the log, which
// are told while somebody follows them, do not.
func (s Sink) Wants(eventType string) bool {
	return eventType != logWritten && slices.ContainsFunc(s.Types, func(glob string) bool {
		ok, _ := path.Match(glob, eventType)
		return ok
	})
}

// SinkURL is what the URL of a sink says.
type SinkURL struct {
	Servers []string // host:port, at least one
	TLS     bool
	SASL    string // how a Kafka client says who it is: plain, scram-sha-256 or scram-sha-512
}

// ParseSinkURL reads nats://HOST[:4222], tls://HOST[:4222], kafka://HOST[:9092]
// and kafka+tls://HOST[:9092], each with more hosts after commas. Kafka's may
// end in ?sasl=plain, which needs TLS, scram-sha-256 or scram-sha-512 (default).
func ParseSinkURL(kind, text string) (SinkURL, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	u, port, want := SinkURL{}, "4222", "nats://HOST:4222, or tls://HOST:4222"
	switch {
	case kind == SinkNATS && (scheme == "nats" || scheme == "tls"):
		u.TLS = scheme == "tls"
	case kind == SinkKafka:
		port, want = "9092", "kafka://HOST:9092, or kafka+tls://HOST:9092"
		u.TLS, u.SASL = scheme == "kafka+tls", "scram-sha-512"
	}
	if strings.Contains(rest, "@") {
		return SinkURL{}, errSecretURL
	}
	rest, query, asked := strings.Cut(rest, "?")
	if asked && kind == SinkKafka {
		u.SASL = strings.TrimPrefix(query, "sasl=")
		asked = !slices.Contains([]string{"sasl=plain", "sasl=scram-sha-256", "sasl=scram-sha-512"}, query)
	}
	known := kind == SinkNATS && (scheme == "nats" || scheme == "tls") || kind == SinkKafka && (scheme == "kafka" || scheme == "kafka+tls")
	if !known || asked {
		return SinkURL{}, fmt.Errorf("%s is not %s", quote(text), want)
	}
	if u.SASL == "plain" && !u.TLS {
		return SinkURL{}, fmt.Errorf("%s would send the password in the clear: use kafka+tls://, or sasl=scram-sha-512", quote(text))
	}
	for host := range strings.SplitSeq(rest, ",") {
		if err := checkHostPort(host); err != nil {
			return SinkURL{}, fmt.Errorf("%s in %s is not HOST:PORT: want %s", quote(host), quote(text), want)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		} else if _, err := netip.ParseAddr(host); err == nil { // an IPv6 address without brackets
			host = net.JoinHostPort(host, port)
		}
		u.Servers = append(u.Servers, host)
	}
	return u, nil
}

var errSecretURL = errors.New("a user or password is given by file: put it into credentials_file")

func subjectRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
}

// placed is a problem and the part of a list of tables that it is about, such
// as 1 or 1.url; "" = the whole list.
type placed struct {
	problem
	in string
}

// setSinks puts a list of sinks in its place, unless it breaks a rule.
func (l *loader) setSinks(rank int, e entry) bool {
	sinks, problems := readSinks(e.value, e.text)
	for _, p := range problems {
		at := e
		if pos, ok := e.inner[sinkKey+"."+p.in]; ok {
			at.where = fmt.Sprintf("%s:%d:%d", e.file, pos.line, pos.column)
		}
		l.fault(at, sinkKey, p.problem)
	}
	if len(problems) == 0 {
		l.cfg.Sinks = sinks
		l.origins[sinkKey], l.wheres[sinkKey], l.ranks[sinkKey] = e.origin, e.where, rank
	}
	return len(problems) == 0
}

// readSinks makes sinks of a list of tables, or of that list as text. The
// problems tell of all that is wrong, each with the number of its sink.
func readSinks(value any, text bool) ([]Sink, []placed) {
	whole := func(format string, args ...any) ([]Sink, []placed) {
		return nil, []placed{{problem{RuleType, fmt.Sprintf(format, args...)}, ""}}
	}
	if s, ok := value.(string); ok && text {
		if strings.TrimSpace(s) == "" {
			return nil, nil
		}
		var file map[string]any
		if err := gotoml.Unmarshal([]byte(sinkKey+" = "+s), &file); err != nil || len(file) != 1 {
			return whole(`%s is no list like [{ kind = "nats", url = "nats://HOST:4222" }]`, quote(s))
		}
		value = file[sinkKey]
	}
	list, ok := value.([]any)
	if tables, is := value.([]map[string]any); is {
		ok = true
		for _, t := range tables {
			list = append(list, t)
		}
	}
	if !ok {
		return whole("is no list of tables: write [[sink]], with its keys below")
	}
	if len(list) > maxSinks {
		return whole("%d sinks are more than %d", len(list), maxSinks)
	}
	var sinks []Sink
	var problems []placed
	for i, item := range list {
		s, found := readSink(item)
		for _, p := range found {
			p.in = strings.TrimSuffix(strconv.Itoa(i)+"."+p.in, ".")
			p.text = fmt.Sprintf("sink %d: %s", i+1, p.text)
			problems = append(problems, p)
		}
		if same := slices.IndexFunc(sinks, func(o Sink) bool { return o.Kind == s.Kind && o.URL == s.URL && o.Subject == s.Subject }); same >= 0 && len(found) == 0 {
			problems = append(problems, placed{problem{RuleRange, fmt.Sprintf("sink %d: is the same place as sink %d: give one of them the types of both", i+1, same+1)}, strconv.Itoa(i)})
		}
		sinks = append(sinks, s)
	}
	return sinks, problems
}

// sinkFields are the keys of one table, in their order, with how each is judged.
var sinkFields = []struct {
	name  string
	at    func(*Sink) any
	check func(Sink) []problem
}{
	{"kind", func(s *Sink) any { return &s.Kind }, checkSinkKind},
	{"url", func(s *Sink) any { return &s.URL }, checkSinkURL},
	{"subject", func(s *Sink) any { return &s.Subject }, checkSinkSubject},
	{"types", func(s *Sink) any { return &s.Types }, checkSinkTypes},
	{"credentials_file", func(s *Sink) any { return &s.CredentialsFile }, checkSinkFile},
}

func readSink(item any) (Sink, []placed) {
	s := Sink{Subject: defaultSubject, Types: []string{"*"}}
	table, ok := item.(map[string]any)
	if !ok {
		return s, []placed{{problem{RuleType, show(item) + " is no table"}, ""}}
	}
	var problems []placed
	wrong := make(map[string]bool) // of what type they are is told already
	given := make(map[string]bool)
	names := make([]string, len(sinkFields))
	for i, f := range sinkFields {
		names[i] = f.name
		value, is := table[f.name]
		if given[f.name] = is; !is {
			continue
		}
		if err := setValue(f.at(&s), value); err != nil {
			wrong[f.name] = true
			problems = append(problems, placed{problem{RuleType, f.name + " " + show(value) + " " + err.Error()}, f.name})
		}
	}
	var unknown []string
	for name := range table {
		if !slices.Contains(names, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		text := name + ": unknown key"
		if best := Suggest(name, names); best != "" {
			text += ", did you mean " + best + "?"
		}
		problems = append(problems, placed{problem{RuleUnknownKey, text}, name})
	}
	for _, f := range sinkFields {
		if wrong[f.name] || f.name == "url" && wrong["kind"] {
			continue
		}
		for _, p := range f.check(s) {
			in := ""
			if given[f.name] {
				in = f.name
			}
			problems = append(problems, placed{problem{p.rule, f.name + " " + p.text}, in})
		}
	}
	return s, problems
}

func checkSinkKind(s Sink) []problem {
	if s.Kind != SinkNATS && s.Kind != SinkKafka {
		return one(RuleRange, "%s is not one of nats, kafka", quote(s.Kind))
	}
	return nil
}

func checkSinkURL(s Sink) []problem {
	if s.Kind != SinkNATS && s.Kind != SinkKafka {
		return nil // what it should be nobody knows
	}
	_, err := ParseSinkURL(s.Kind, s.URL)
	switch {
	case errors.Is(err, errSecretURL):
		return one(RuleSecretValue, "%s", err)
	case err != nil:
		return one(RuleRange, "%s", err)
	}
	return nil
}

func checkSinkSubject(s Sink) []problem {
	bare := strings.NewReplacer(nodeWord, "n", typeWord, "t").Replace(s.Subject)
	odd := strings.ContainsFunc(bare, func(r rune) bool { return !subjectRune(r) })
	if odd || len(s.Subject) > maxSubject || slices.Contains(strings.Split(bare, "."), "") {
		return one(RuleRange, "%s is not made of words with dots between, such as %s: letters, digits, _, - and the words {node} and {type}, at most %d characters",
			quote(s.Subject), defaultSubject, maxSubject)
	}
	return nil
}

func checkSinkTypes(s Sink) []problem {
	if n := len(s.Types); n == 0 || n > maxSinkTypes {
		return one(RuleRange, "has %d patterns: give 1 to %d, such as peer.* or block.stored", n, maxSinkTypes)
	}
	var out []problem
	types := slices.DeleteFunc(event.Types(), func(t string) bool { return t == logWritten })
	for _, glob := range s.Types {
		if err := checkPattern(glob, types, "type of event that goes to sinks"); err != nil {
			out = append(out, problem{RuleRange, err.Error()})
		}
	}
	return out
}

func checkSinkFile(s Sink) []problem {
	name := strings.TrimPrefix(s.CredentialsFile, filepath.VolumeName(s.CredentialsFile))
	if strings.ContainsFunc(name, unprintable) || strings.Contains(name, ":") { // USER:PASSWORD belongs into the file
		return one(RuleSecretValue, "looks like the secret itself: give the name of a file that holds it")
	}
	return nil
}

// formatSinks gives the text that readSinks reads.
func formatSinks(sinks []Sink) string {
	if len(sinks) == 0 {
		return ""
	}
	tables := make([]string, len(sinks))
	for i, s := range sinks {
		var keys []string
		for _, f := range sinkFields {
			switch p := f.at(&s).(type) {
			case *string:
				if *p != "" {
					keys = append(keys, f.name+" = "+strconv.Quote(*p))
				}
			case *[]string:
				items := make([]string, len(*p))
				for i, item := range *p {
					items[i] = strconv.Quote(item)
				}
				keys = append(keys, f.name+" = ["+strings.Join(items, ", ")+"]")
			}
		}
		tables[i] = "{ " + strings.Join(keys, ", ") + " }"
	}
	return "[" + strings.Join(tables, ", ") + "]"
}
