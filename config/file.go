package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	gotoml "github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	yamlv3 "go.yaml.in/yaml/v3"
)

const fileName = "parley.toml"

// entry is one value that somebody gave.
type entry struct {
	key    string // as given: dotted key or alias
	value  any    // text from the environment and flags, else what the file's format makes of it
	text   bool   // value is a string in which numbers and lists are text too
	native bool   // key is no alias, whatever its name
	where  string // for faults
	origin string // for people
	pos    position

	file  string              // as shown; "" = from no file
	inner map[string]position // of the parts of all lists of tables in it, such as sink.1.url
}

type position struct{ line, column int }

// source is a file to read and how users know it.
type source struct{ path, shown string }

// files returns the configuration file and what lies in conf.d beside it, weakest first.
func files(args LoadArgs, env map[string]string) ([]source, []Fault) {
	main, ok := mainFile(args, env)
	if !ok {
		return nil, nil
	}
	out := []source{main}
	names, err := os.ReadDir(filepath.Join(filepath.Dir(main.path), "conf.d")) // sorted by name
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return out, nil
		}
		return out, []Fault{{Where: filepath.Join(filepath.Dir(main.shown), "conf.d"), Rule: RuleFile, Text: reason(err)}}
	}
	for _, name := range names {
		if filepath.Ext(name.Name()) != ".toml" || name.IsDir() {
			continue
		}
		out = append(out, source{
			path:  filepath.Join(filepath.Dir(main.path), "conf.d", name.Name()),
			shown: filepath.Join(filepath.Dir(main.shown), "conf.d", name.Name()),
		})
	}
	return out, nil
}

// mainFile is the one named, or the first that exists of ./parley.toml, the user's and the machine's.
func mainFile(args LoadArgs, env map[string]string) (source, bool) {
	inDir := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(args.Dir, path)
	}
	if args.File != "" {
		return source{inDir(args.File), args.File}, true
	}
	places := []string{fileName}
	if dir := env["XDG_CONFIG_HOME"]; dir != "" {
		places = append(places, filepath.Join(dir, "parley", fileName))
	} else if home := env["HOME"]; home != "" {
		places = append(places, filepath.Join(home, ".config", "parley", fileName))
	}
	for _, place := range append(places, filepath.Join("/etc/parley", fileName)) {
		if _, err := os.Stat(inDir(place)); err == nil {
			return source{inDir(place), place}, true
		}
	}
	return source{}, false
}

func readFile(src source) ([]entry, []Fault) {
	data, err := os.ReadFile(src.path)
	if err != nil {
		return nil, []Fault{{Where: src.shown, Rule: RuleFile, Text: reason(err)}}
	}
	return parseFile(data, src.shown)
}

// reason leaves out the path, which the fault's Where says.
func reason(err error) string {
	if perr, ok := errors.AsType[*fs.PathError](err); ok {
		return perr.Op + ": " + perr.Err.Error()
	}
	return err.Error()
}

// parseFile returns the values in their order, and the first fault where the file is no TOML (YAML by the name's ending).
func parseFile(data []byte, shown string) ([]entry, []Fault) {
	var parser koanf.Parser = toml.Parser()
	places := tomlPlaces
	if ext := strings.ToLower(filepath.Ext(shown)); ext == ".yaml" || ext == ".yml" {
		parser, places = yaml.Parser(), yamlPlaces
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors put a byte order mark
	values, err := parser.Unmarshal(data)
	if err != nil {
		return nil, []Fault{syntaxFault(err, shown)}
	}
	if name := dotted(values); name != "" {
		return nil, []Fault{{Where: shown, Key: name, Rule: RuleUnknownKey, Text: "is one quoted name with a dot: leave out the quotes, or use a section"}}
	}
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
		return nil, []Fault{{Where: shown, Rule: RuleSyntax, Text: err.Error()}}
	}
	at := places(data)
	var entries []entry
	for key, value := range k.All() {
		e := entry{key: key, value: value, where: shown, origin: "file " + shown, file: shown, inner: at}
		if pos, ok := at[key]; ok {
			e.pos = pos
			e.where = fmt.Sprintf("%s:%d:%d", shown, pos.line, pos.column)
			e.origin = fmt.Sprintf("file %s:%d", shown, pos.line)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.pos.line, b.pos.line), cmp.Compare(a.pos.column, b.pos.column), cmp.Compare(a.key, b.key))
	})
	return entries, nil
}

// dotted returns a name that itself has a dot: once flat, it could not be told from a key in a section.
func dotted(values map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if strings.Contains(name, ".") {
			return name
		}
		if section, ok := values[name].(map[string]any); ok {
			if inner := dotted(section); inner != "" {
				return name + "." + inner
			}
		}
	}
	return ""
}

func syntaxFault(err error, shown string) Fault {
	f := Fault{Where: shown, Rule: RuleSyntax, Text: strings.Join(strings.Fields(err.Error()), " ")}
	if derr, ok := errors.AsType[*gotoml.DecodeError](err); ok {
		line, column := derr.Position()
		f.Where = fmt.Sprintf("%s:%d:%d", shown, line, column)
		f.Text = strings.TrimPrefix(f.Text, "toml: ")
	}
	return f
}

// tomlPlaces finds where each key and table stands. data must be valid TOML.
func tomlPlaces(data []byte) map[string]position {
	var p unstable.Parser
	p.Reset(data)
	places := make(map[string]position)
	count := make(map[string]int) // of the tables of a list so far
	var table []string
	for p.NextExpression() {
		switch expr := p.Expression(); expr.Kind {
		case unstable.Table:
			table = tomlKey(&p, places, nil, expr)
		case unstable.ArrayTable:
			list := tomlKey(&p, places, nil, expr)
			name := strings.Join(list, ".")
			table = append(list, strconv.Itoa(count[name]))
			places[strings.Join(table, ".")] = tomlPlace(&p, expr)
			count[name]++
		case unstable.KeyValue:
			tomlKeyValue(&p, places, table, expr)
		}
	}
	return places
}

func tomlKeyValue(p *unstable.Parser, places map[string]position, table []string, expr *unstable.Node) {
	tomlValue(p, places, tomlKey(p, places, table, expr), expr.Value())
}

// tomlValue goes into inline tables, also those of a list.
func tomlValue(p *unstable.Parser, places map[string]position, path []string, value *unstable.Node) {
	n := 0
	for it := value.Children(); it.Next(); {
		switch node := it.Node(); {
		case value.Kind == unstable.InlineTable && node.Kind == unstable.KeyValue:
			tomlKeyValue(p, places, path, node)
		case value.Kind == unstable.Array && node.Kind == unstable.InlineTable:
			tomlValue(p, places, append(slices.Clone(path), strconv.Itoa(n)), node)
			n++
		}
	}
}

// tomlPlace is where the last part of a key stands.
func tomlPlace(p *unstable.Parser, expr *unstable.Node) (at position) {
	for it := expr.Key(); it.Next(); {
		start := p.Shape(it.Node().Raw).Start
		at = position{start.Line, start.Column}
	}
	return at
}

// tomlKey notes the place of a key's last part, the first time it is met.
func tomlKey(p *unstable.Parser, places map[string]position, table []string, expr *unstable.Node) []string {
	path := slices.Clone(table)
	for it := expr.Key(); it.Next(); {
		path = append(path, string(it.Node().Data))
	}
	if key := strings.Join(path, "."); places[key] == (position{}) {
		places[key] = tomlPlace(p, expr)
	}
	return path
}

// yamlPlaces finds where each key stands. data must be valid YAML.
func yamlPlaces(data []byte) map[string]position {
	var doc yamlv3.Node
	places := make(map[string]position)
	if err := yamlv3.Unmarshal(data, &doc); err == nil && len(doc.Content) == 1 {
		yamlMapping(places, "", doc.Content[0])
	}
	return places
}

func yamlMapping(places map[string]position, prefix string, node *yamlv3.Node) {
	switch node.Kind {
	case yamlv3.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			name := node.Content[i]
			places[prefix+name.Value] = position{name.Line, name.Column}
			yamlMapping(places, prefix+name.Value+".", node.Content[i+1])
		}
	case yamlv3.SequenceNode:
		for i, item := range node.Content {
			places[prefix+strconv.Itoa(i)] = position{item.Line, item.Column}
			yamlMapping(places, prefix+strconv.Itoa(i)+".", item)
		}
	}
}
