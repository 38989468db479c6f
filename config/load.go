package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// LoadArgs is all that Load looks at, beside the files themselves.
type LoadArgs struct {
	File     string            // --config; "" = search
	Dir      string            // where ./parley.toml is searched and a relative File begins; "" = working directory
	Environ  []string          // as os.Environ gives it
	Flags    map[string]string // key → value, from the keys' own flags
	Sets     map[string]string // likewise from --set; stronger
	Hostname string            // default of node.name; "" = the machine's
	Settings []byte            // in place of what SettingsName in the data directory holds; nil = that
}

// Loaded is a configuration without faults, and where each value came from.
type Loaded struct {
	Config
	Origins  map[string]string // for each key of Keys: "default", "preset devnet", "file parley.toml:12", "env PEERS", "flag --p2p-port"
	Warnings []string          // one line each; they do not stop the start
	Files    []string          // those that were read, weakest first; as they were named
}

// Load returns the configuration, or a *FaultsError with everything that is wrong with it.
// Strength: default < preset of the profile < file, then conf.d/*.toml beside it, then SettingsName in the data directory <
// environment < flag; within one source a key's own name wins over its aliases. It reads the files and nothing else of the
// machine but its name, if args has none.
func Load(args LoadArgs) (*Loaded, error) {
	env := parseEnviron(args.Environ)
	l := newLoader()
	var layers [][]entry
	sources, faults := files(args, env)
	l.faults = append(l.faults, faults...)
	for _, src := range sources {
		l.files = append(l.files, src.shown)
		entries, faults := readFile(src)
		l.faults = append(l.faults, faults...)
		layers = append(layers, entries)
	}
	stronger := [][]entry{envEntries(env), flagEntries(args.Flags, args.Sets)}
	loaded, err := l.load(append(slices.Clone(layers), stronger...), env, args.Hostname)
	if err != nil {
		return nil, err
	}
	return withSettings(args, loaded, layers, stronger, env)
}

type loader struct {
	cfg      Config
	check    checker
	origins  map[string]string
	wheres   map[string]string
	ranks    map[string]int // number of the layer that a key's value came from
	faults   []Fault
	warnings []string
	files    []string
}

func newLoader() *loader {
	l := &loader{cfg: Default(), origins: make(map[string]string), wheres: make(map[string]string), ranks: make(map[string]int)}
	for _, k := range knobs {
		l.origins[k.name], l.wheres[k.name] = "default", "default"
	}
	return l
}

func (l *loader) load(layers [][]entry, env map[string]string, hostname string) (*Loaded, error) {
	preset := presetEntries(profileOf(layers))
	l.check.devnet = profileOf(layers) == ProfileDevnet
	for rank, entries := range append([][]entry{preset}, layers...) {
		l.layer(rank+1, entries)
	}
	l.finish(env, hostname)
	if len(l.faults) > 0 {
		return nil, &FaultsError{Faults: l.faults}
	}
	return &Loaded{Config: l.cfg, Origins: l.origins, Warnings: l.warnings, Files: l.files}, nil
}

// profileOf looks ahead, because the profile decides over the weakest layer.
func profileOf(layers [][]entry) string {
	profile := ProfileDefault
	for _, entries := range layers {
		for _, e := range entries {
			if text, ok := e.value.(string); ok && e.key == "profile" {
				profile = text
			}
		}
	}
	return profile
}

// presetEntries is what a profile changes.
func presetEntries(profile string) []entry {
	if profile != ProfileDevnet {
		return nil
	}
	name := "preset " + profile
	return []entry{{key: "p2p.port", value: "0", text: true, native: true, where: name, origin: name}} // the system chooses: many nodes, one machine
}

// layer applies what one source says: keys first, then the aliases of keys that it did not name.
func (l *loader) layer(rank int, entries []entry) {
	native := make(map[string]bool)
	aliased := make(map[string]entry)
	for _, e := range entries {
		if k, ok := find(e.key); ok {
			native[k.name] = true
			l.native(rank, k, e)
		} else if a, ok := findAlias(e.key); ok && a.allows(e) {
			aliased[a.name] = e
		} else {
			l.unknown(e)
		}
	}
	winner := make(map[string]string) // key → the alias that set it
	for _, a := range aliases {
		e, ok := aliased[a.name]
		if !ok || a.key == "" {
			continue
		}
		over := a.key
		if a.over != "" {
			over = a.over
		}
		if native[over] {
			l.warnings = append(l.warnings, fmt.Sprintf("%s: has no effect, because %s is set too", e.where, over))
			continue
		}
		if first, taken := winner[a.key]; taken && !a.edits {
			if aliased[first].value != e.value {
				l.warnings = append(l.warnings, fmt.Sprintf("%s: has no effect, because %s is set too", e.where, first))
			}
			continue
		}
		winner[a.key] = a.name
		l.alias(rank, a, e)
	}
}

// allows says whether the name is an alias in the entry's source.
func (a alias) allows(e entry) bool {
	return !e.native && (!e.text || !a.fileOnly) && (e.text || !a.envOnly)
}

func (l *loader) unknown(e entry) {
	if strings.HasPrefix(e.key, sinkKey+".") && !e.text {
		l.fault(e, e.key, problem{RuleType, "is in one table: write [[sink]], with two brackets, for a list of sinks"})
		return
	}
	prefix := e.key + "."
	if slices.ContainsFunc(knobs, func(k knob) bool { return strings.HasPrefix(k.name, prefix) }) {
		if isEmpty(e.value) && !e.text {
			return // an empty section
		}
		l.fault(e, e.key, problem{RuleType, "is a section, not a value: give one of its keys, like " + firstOf(prefix)})
		return
	}
	var names []string
	for _, k := range knobs {
		name := k.name
		if strings.HasPrefix(e.where, "env ") {
			name = Key{Name: name}.Env()
		}
		names = append(names, name)
	}
	given := e.key
	if name, ok := strings.CutPrefix(e.where, "env "); ok {
		given = name
	}
	text := "unknown key"
	if best := Suggest(given, names); best != "" {
		text += ", did you mean " + best + "?"
	}
	l.fault(e, e.key, problem{RuleUnknownKey, text})
}

func isEmpty(value any) bool {
	section, ok := value.(map[string]any)
	return value == nil || ok && len(section) == 0
}

func firstOf(prefix string) string {
	i := slices.IndexFunc(knobs, func(k knob) bool { return strings.HasPrefix(k.name, prefix) })
	return knobs[i].name
}

type secret struct {
	key, fileKey, env string
	both              bool // the file is where the value is kept
}

// secrets can be given by value, and only from a variable that is no key.
var secrets = []secret{
	{jwtSecretKey, jwtFileKey, "JWT_SECRET", false},
	{sharedKeyKey, sharedFileKey, "p2p_shared_key", false},
	{nodeKeyKey, "node.key_file", "p2p_private_key", true},
}

func (l *loader) native(rank int, k knob, e entry) {
	for _, s := range secrets {
		if k.name == s.key {
			l.fault(e, k.name, problem{RuleSecretValue, "a secret is given by file: set " + s.fileKey + ", or " + s.env + " in the environment"})
			return
		}
	}
	l.set(rank, k, e)
}

func (l *loader) alias(rank int, a alias, e entry) {
	text, err := aliasText(e.value)
	var value any = text
	if err == nil && a.convert != nil {
		value, err = a.convert(&l.cfg, text)
	}
	if err != nil {
		rule := RuleType
		if errors.Is(err, errHandshakeTopic) {
			rule = RuleHandshakeTopic
		}
		l.fault(e, a.key, problem{rule, err.Error()})
		return
	}
	if value == nil {
		return
	}
	k, _ := find(a.key)
	_, e.text = value.(string)
	e.value = value
	if !strings.HasPrefix(e.origin, "env ") {
		e.origin += " " + a.name
	}
	if a.edits && l.ranks[k.name] == rank {
		e.origin = l.origins[k.name] + ", " + e.origin
	}
	if l.set(rank, k, e) && a.warn != "" && text != "" {
		l.warnings = append(l.warnings, e.where+": "+a.warn)
	}
}

// set puts a value in its place, unless it breaks a rule.
func (l *loader) set(rank int, k knob, e entry) bool {
	next := l.cfg
	field := k.at(&next)
	var err error
	switch text, _ := e.value.(string); {
	case k.name == sinkKey:
		return l.setSinks(rank, e)
	case e.text && k.name == staticPeersKey:
		next.P2P.StaticPeers = splitPeers(text)
	case e.text:
		err = setText(field, text)
	default:
		err = setValue(field, e.value)
	}
	if err != nil {
		l.fault(e, k.name, problem{RuleType, show(e.value) + " " + err.Error()})
		return false
	}
	problems := k.bounds(&next)
	if len(problems) == 0 && k.check != nil {
		problems = k.check(&l.check, &next)
	}
	for _, w := range l.check.warnings {
		l.warnings = append(l.warnings, e.where+": "+k.name+": "+w)
	}
	l.check.warnings = nil
	for _, p := range problems {
		l.fault(e, k.name, p)
	}
	if len(problems) > 0 {
		return false
	}
	l.cfg = next
	l.origins[k.name], l.wheres[k.name], l.ranks[k.name] = e.origin, e.where, rank
	return true
}

func show(value any) string {
	if text, ok := value.(string); ok {
		return quote(text)
	}
	return strings.Trim(quote(fmt.Sprint(value)), `"`)
}

func (l *loader) fault(e entry, key string, p problem) {
	l.faults = append(l.faults, Fault{Where: e.where, Key: key, Rule: p.rule, Text: p.text})
}

// finish fills in what depends on the machine and tests what depends on several keys.
func (l *loader) finish(env map[string]string, hostname string) {
	for _, s := range secrets {
		if !s.both && l.ranks[s.fileKey] > l.ranks[s.key] { // the stronger source named a file
			k, _ := find(s.key)
			*k.at(&l.cfg).(*Secret) = ""
			l.origins[s.key] = "default"
		}
	}
	expandListen(&l.cfg)
	l.checkPrivate()
	if l.cfg.DataDir == "" {
		dir, ok := dataDir(env)
		if !ok {
			l.fault(entry{where: l.wheres["data_dir"]}, "data_dir", problem{RuleRange, "has no default without HOME: set data_dir"})
		}
		l.cfg.DataDir = dir
	}
	if l.cfg.Node.Name == "" {
		l.cfg.Node.Name = nodeName(hostname)
	}
	found := checkListeners(&l.cfg)
	if l.cfg.P2P.MinPeers > l.cfg.P2P.MaxPeers {
		found["p2p.min_peers"] = problem{RuleRange, fmt.Sprintf("%d is more than p2p.max_peers, %d", l.cfg.P2P.MinPeers, l.cfg.P2P.MaxPeers)}
	}
	if c := l.cfg.P2P; c.TargetPeers > c.MaxPeers && l.ranks["p2p.target_peers"] > 0 { // the default gives way by itself
		found["p2p.target_peers"] = problem{RuleRange, fmt.Sprintf("%d is more than p2p.max_peers, %d: leave room for inbound and static peers too", c.TargetPeers, c.MaxPeers)}
	}
	maps.Copy(found, checkTopics(&l.cfg))
	l.checkTLS(env, found)
	if p := checkOrigins(&l.cfg); p != nil {
		found[corsKey] = *p
	}
	maps.Copy(found, checkSidecar(&l.cfg))
	for _, k := range knobs {
		if p, ok := found[k.name]; ok {
			l.fault(entry{where: l.wheres[k.name]}, k.name, p)
		}
	}
}

// checkOrigins finds a gift of what is kept to tokens to every page; nil = none.
func checkOrigins(c *Config) *problem {
	if !c.API.AllOrigins() || c.API.PublicRead {
		return nil
	}
	return &problem{RuleRange, "* lets every page read what api.public_read = false keeps to tokens: name the origins"}
}

// checkTLS finds a certificate without its key, and none where Teranode's
// setting asks for HTTPS.
func (l *loader) checkTLS(env map[string]string, found map[string]problem) {
	cert, key := l.cfg.API.TLSCert, l.cfg.API.TLSKey
	if level := env[securityLevel]; level != "" && level != "0" {
		switch where := (entry{where: "env " + securityLevel}); {
		case level != "1":
			l.fault(where, tlsCertKey, problem{RuleRange, quote(level) + " is neither 0 nor 1"})
		case cert == "" && key == "":
			l.fault(where, tlsCertKey, problem{RuleTLSPair, "HTTPS needs a certificate: set server_certFile and server_keyFile, or api.tls_cert and api.tls_key"})
		}
	}
	switch {
	case cert != "" && key == "":
		found[tlsCertKey] = problem{RuleTLSPair, "is set without api.tls_key, the file of its key"}
	case cert == "" && key != "":
		found[tlsKeyKey] = problem{RuleTLSPair, "is set without api.tls_cert, the file of its certificate"}
	}
}

// nodeName is the host name, as far as a name of a node may be long.
func nodeName(hostname string) string {
	if hostname == "" {
		hostname, _ = os.Hostname() // without one the name stays empty, which is legal
	}
	return hostname[:min(len(hostname), maxNodeName)]
}

// Value is one line of `parley config show --origin`.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Values lists every key by name, its value as text and where it came from. Secrets are masked.
func (l *Loaded) Values() []Value {
	values := make([]Value, len(knobs))
	for i, k := range knobs {
		values[i] = Value{Key: k.name, Value: withoutPassword(format(k.at(&l.Config))), Origin: l.Origins[k.name]}
	}
	slices.SortFunc(values, func(a, b Value) int { return strings.Compare(a.Key, b.Key) })
	return values
}

// passwords of URLs: after the user's name, or as a parameter.
var (
	userPassword  = regexp.MustCompile(`(://[^:/?#@]*):[^/?#]*@`)
	queryPassword = regexp.MustCompile(`(?i)([?&][^=&]*password[^=&]*)=[^&]*`)
)

// withoutPassword masks the password of a URL, such as that of a shared list of
// bans.
func withoutPassword(text string) string {
	return queryPassword.ReplaceAllString(userPassword.ReplaceAllString(text, "$1:***@"), "$1=***")
}
