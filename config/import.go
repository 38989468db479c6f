package config

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	gotoml "github.com/pelletier/go-toml/v2"
)

// Systems whose settings Import reads.
const (
	FromProvChain = "provchain" // lines NAME=VALUE, as of --env-file, or the environment in a compose file
	FromPrysm     = "prysm"     // YAML of flags
	FromTeranode  = "teranode"  // settings.conf
)

// Imported is what another system's settings are in our words.
type Imported struct {
	TOML  string   // a configuration file
	Notes []string // one line each: what was left out, and why
}

const (
	maxImport  = 1 << 20 // bytes of settings that are read
	maxExpands = 16      // names within values of names
	maxExpand  = 8 << 10 // bytes of a value
)

// Import reads settings of another system, whose file is called shown. Of
// Teranode's, context chooses among those that are given for several, such as
// dev.me. A *FaultsError names those that would not start a node.
func Import(from string, data []byte, shown, context string) (*Imported, error) {
	if len(data) > maxImport {
		return nil, fmt.Errorf("%s has %d bytes: more than %d are no settings", shown, len(data), maxImport)
	}
	var entries []entry
	var faults []Fault
	switch from {
	case FromProvChain:
		entries = envLines(data, shown)
	case FromPrysm:
		entries, faults = parseFile(data, shown+yamlEnding(shown))
	case FromTeranode:
		entries = teranodeLines(data, shown, context)
	default:
		return nil, fmt.Errorf("%q: want %s, %s or %s", from, FromProvChain, FromPrysm, FromTeranode)
	}
	if len(faults) > 0 {
		return nil, &FaultsError{faults}
	}
	out := &Imported{}
	known := out.known(entries, from)
	if len(known) == 0 {
		return nil, fmt.Errorf("%s has no setting of %s that is known here", shown, from)
	}
	l := newLoader()
	l.layer(1, known)
	out.Notes = append(out.Notes, l.warnings...)
	if len(l.faults) > 0 {
		return nil, &FaultsError{l.faults}
	}
	text, err := l.file(from, shown)
	if err != nil {
		return nil, err
	}
	out.TOML = text
	written, faults := parseFile([]byte(text), "parley.toml")
	if len(faults) > 0 {
		return nil, &FaultsError{faults}
	}
	if _, err := newLoader().load([][]entry{written}, map[string]string{"HOME": "/"}, "node"); err != nil { // what one key alone does not show
		return nil, err
	}
	return out, nil
}

// yamlEnding is what parseFile tells YAML by.
func yamlEnding(shown string) string {
	if strings.HasSuffix(shown, ".yaml") || strings.HasSuffix(shown, ".yml") {
		return ""
	}
	return ".yaml"
}

// known leaves out what has no key here, and secrets.
func (out *Imported) known(entries []entry, from string) (list []entry) {
	unknown := map[string]bool{}
	for _, e := range entries {
		a, ok := findAlias(e.key)
		hidden := slices.IndexFunc(secrets, func(s secret) bool { return s.key == a.key })
		switch {
		case !ok || a.key == "" || !a.allows(e):
			unknown[e.key] = true
		case hidden >= 0 && e.value != "":
			out.Notes = append(out.Notes, fmt.Sprintf("%s: %s is a secret, and is written to no file: leave it in the environment, or name a file of mode 0600 by %s", e.where, e.key, secrets[hidden].fileKey))
		case hidden >= 0:
		default:
			list = append(list, e)
		}
	}
	if len(unknown) > 0 {
		out.Notes = append(out.Notes, "left out, since there is no such key here: "+strings.Join(slices.Sorted(maps.Keys(unknown)), ", "))
	}
	return list
}

// file writes what was set, section by section, with where it comes from.
func (l *loader) file(from, shown string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# parley configuration, made of %s (%s).\n", shown, from)
	last := ""
	sorted := slices.Clone(knobs)
	slices.SortStableFunc(sorted, func(a, b knob) int { // keys without a section first, as TOML wants it
		return strings.Compare(sectionOf(a.name), sectionOf(b.name))
	})
	for _, k := range sorted {
		if l.ranks[k.name] == 0 {
			continue
		}
		if s := sectionOf(k.name); s != last {
			fmt.Fprintf(&b, "\n[%s]\n", s)
			last = s
		}
		var value any
		switch p := k.at(&l.cfg).(type) {
		case *bool:
			value = *p
		case *int:
			value = *p
		case *float64:
			value = *p
		case *[]string:
			value = append([]string{}, *p...)
		default:
			value = format(p)
		}
		line, err := gotoml.Marshal(map[string]any{k.name[strings.LastIndexByte(k.name, '.')+1:]: value})
		if err != nil {
			return "", fmt.Errorf("%s: %w", k.name, err)
		}
		fmt.Fprintf(&b, "%s # %s\n", bytes.TrimSpace(line), l.origins[k.name])
	}
	return b.String(), nil
}

func sectionOf(key string) string { return key[:max(0, strings.LastIndexByte(key, '.'))] }

// envLine is NAME=VALUE, with export before it, or as an item or a key of a
// compose file.
var envLine = regexp.MustCompile(`^(?:- |export )?["']?([A-Za-z][A-Za-z0-9_]*)["']?(?:=|: )(.*)$`)

func envLines(data []byte, shown string) []entry {
	var list []entry
	at := map[string]int{}
	for n, line := range lines(data) {
		m := envLine.FindStringSubmatch(line)
		if m == nil || m[1] != strings.ToUpper(m[1]) {
			continue
		}
		value := strings.TrimSpace(m[2])
		if i := strings.Index(value, " #"); i >= 0 && !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
			value = strings.TrimSpace(value[:i])
		}
		e := lineEntry(m[1], strings.Trim(value, `"'`), shown, n) // of - "NAME=VALUE" the first stands before the name
		if i, twice := at[m[1]]; twice {
			list[i] = e // the last one counts
			continue
		}
		at[m[1]] = len(list)
		list = append(list, e)
	}
	return list
}

func lineEntry(key, value, shown string, n int) entry {
	where := fmt.Sprintf("%s:%d", shown, n)
	return entry{key: key, value: value, text: true, where: where, origin: where}
}

// lines yields the lines that say something, by number from 1.
func lines(data []byte) func(func(int, string) bool) {
	return func(yield func(int, string) bool) {
		s := bufio.NewScanner(bytes.NewReader(data))
		s.Buffer(nil, maxImport+1)
		for n := 1; s.Scan(); n++ {
			line := strings.TrimSpace(s.Text())
			if line != "" && line[0] != '#' && !yield(n, line) {
				return
			}
		}
	}
}

// teranodeLines reads NAME[.CONTEXT] = VALUE # comment. Of one name the line of
// the longest context counts that context begins with.
func teranodeLines(data []byte, shown, context string) []entry {
	type line struct {
		value string
		n     int
		depth int
	}
	best := map[string]line{}
	var list []entry
	for n, text := range lines(data) {
		full, value, ok := strings.Cut(text, "=")
		if !ok {
			list = append(list, lineEntry(fmt.Sprintf("line %d, which has no =", n), "", shown, n))
			continue
		}
		name, of, _ := strings.Cut(strings.TrimSpace(full), ".")
		if of != "" && of != context && !strings.HasPrefix(context, of+".") {
			continue
		}
		if i := strings.Index(value, " #"); i >= 0 {
			value = value[:i]
		}
		if old, there := best[name]; !there || len(of) >= old.depth {
			best[name] = line{unquote(strings.TrimSpace(value)), n, len(of)}
		}
	}
	used := map[string]bool{} // in other values, so they are not left out
	for _, l := range best {
		for _, m := range braced.FindAllStringSubmatch(l.value, -1) {
			used[m[1]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(best)) {
		if _, known := findAlias(name); used[name] && !known {
			continue
		}
		value := expand(best[name].value, func(other string) string { return best[other].value })
		list = append(list, lineEntry(name, value, shown, best[name].n))
	}
	return list
}

var braced = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)

// expand puts values in place of names, as often as may be.
func expand(text string, of func(string) string) string {
	for range maxExpands {
		if len(text) > maxExpand {
			return text
		}
		next := braced.ReplaceAllStringFunc(text, func(m string) string {
			if v := of(m[2 : len(m)-1]); len(v) <= maxExpand {
				return v
			}
			return m
		})
		if next == text {
			return text
		}
		text = next
	}
	return text
}
