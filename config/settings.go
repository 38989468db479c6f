package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	gotoml "github.com/pelletier/go-toml/v2"
)

// SettingsName is the file in the data directory that keeps what was changed
// while the node ran. It is the strongest of the files, and holds live keys
// alone.
const SettingsName = "settings.toml"

const settingsHead = "# What was changed while the node ran, by PATCH /api/v1/config: stronger than other files, weaker than environment and flags.\n"

const maxSettings = 1 << 20 // bytes of the file

// SettingsPath is the place of the settings of a data directory.
func SettingsPath(dataDir string) string { return filepath.Join(dataDir, SettingsName) }

// withSettings loads once more with the settings of the data directory that the
// other sources name.
func withSettings(args LoadArgs, before *Loaded, weaker, stronger [][]entry, env map[string]string) (*Loaded, error) {
	path, data := SettingsPath(before.DataDir), args.Settings
	if data == nil {
		var err error
		if data, err = readSettings(path); errors.Is(err, fs.ErrPermission) { // of somebody else's node
			before.Warnings = append(before.Warnings, path+": cannot be read, so what was changed while the node ran is left out")
			return before, nil
		} else if err != nil {
			return nil, &FaultsError{Faults: []Fault{{Where: path, Rule: RuleFile, Text: reason(err)}}}
		}
	}
	if len(data) == 0 {
		return before, nil
	}
	l := newLoader()
	l.files = append(slices.Clone(before.Files), path)
	entries, faults := parseFile(data, path)
	l.faults = append(l.faults, faults...)
	for _, e := range entries {
		if k, ok := find(e.key); ok && !k.live {
			l.fault(e, k.name, problem{RuleRange, notLive(k.name)})
		}
	}
	layers := append(append(slices.Clone(weaker), entries), stronger...)
	return l.load(layers, env, args.Hostname)
}

func notLive(key string) string {
	text := "acts from the next start on: set it in parley.toml, and not here"
	if k, ok := find(key); ok {
		if _, secret := k.at(new(Config)).(*Secret); secret {
			text = "is a secret, which is given by file alone"
		}
	}
	return text
}

func readSettings(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // who opens the directory says what it is
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > maxSettings:
		return nil, fmt.Errorf("%d bytes are more than %d", info.Size(), maxSettings)
	}
	return os.ReadFile(path)
}

// Settings are the values of live keys that were set while the node ran, as a
// file has them. The zero value has none.
type Settings struct{ values map[string]any } // by dotted key

// ReadSettings reads those of a data directory; one without has none.
func ReadSettings(dataDir string) (Settings, error) {
	path := SettingsPath(dataDir)
	data, err := readSettings(path)
	if err != nil {
		return Settings{}, fmt.Errorf("settings %s: %w", path, err)
	}
	entries, faults := parseFile(data, path)
	if len(faults) > 0 {
		return Settings{}, &FaultsError{Faults: faults}
	}
	s := Settings{map[string]any{}}
	for _, e := range entries {
		s.values[e.key] = e.value
	}
	return s, nil
}

// Has reports whether key is set.
func (s Settings) Has(key string) bool {
	_, ok := s.values[key]
	return ok
}

// Merge returns the settings with a merge patch (RFC 7396): sections with keys,
// as in a file or by dotted name; null takes a setting back, and that of a
// section all of its settings. It returns the keys that it sets or takes back too. A
// *FaultsError names all that cannot be set; values are judged by Load.
func (s Settings) Merge(patch map[string]any) (next Settings, keys []string, err error) {
	m := merge{values: maps.Clone(s.values)}
	if m.values == nil {
		m.values = map[string]any{}
	}
	m.section("", patch)
	if len(m.faults) > 0 {
		return s, nil, &FaultsError{Faults: m.faults}
	}
	slices.Sort(m.keys)
	return Settings{m.values}, m.keys, nil
}

type merge struct {
	values map[string]any
	keys   []string
	faults []Fault
}

const patchPlace = "patch" // for faults

func (m *merge) section(prefix string, patch map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(patch)) {
		key, value := prefix+name, patch[name]
		inner, isMap := value.(map[string]any)
		k, known := find(key)
		isSection := slices.ContainsFunc(knobs, func(k knob) bool { return strings.HasPrefix(k.name, key+".") })
		switch {
		case known && !k.live:
			m.fault(key, RuleRange, notLive(key))
		case known && value == nil:
			delete(m.values, key)
			m.keys = append(m.keys, key)
		case known:
			m.set(key, value)
		case isSection && isMap:
			m.section(key+".", inner)
		case isSection && value == nil:
			for k := range m.values {
				if strings.HasPrefix(k, key+".") {
					delete(m.values, k)
					m.keys = append(m.keys, k)
				}
			}
		case isSection:
			m.fault(key, RuleType, "is a section, not a value: give its keys as an object")
		default:
			text := "unknown key"
			if best := Suggest(key, names()); best != "" {
				text += ", did you mean " + best + "?"
			}
			m.fault(key, RuleUnknownKey, text)
		}
	}
}

func names() []string {
	list := make([]string, len(knobs))
	for i, k := range knobs {
		list[i] = k.name
	}
	return list
}

func (m *merge) set(key string, value any) {
	v, err := fileValue(value)
	if err != nil {
		m.fault(key, RuleType, err.Error())
		return
	}
	m.values[key] = v
	m.keys = append(m.keys, key)
}

func (m *merge) fault(key, rule, text string) {
	m.faults = append(m.faults, Fault{Where: patchPlace, Key: key, Rule: rule, Text: text})
}

// fileValue makes what a file would hold of a value of JSON.
func fileValue(value any) (any, error) {
	switch v := value.(type) {
	case string, bool, int64:
		return v, nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		return v.Float64()
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = fileValue(v[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		table := map[string]any{}
		for name, inner := range v {
			if inner == nil {
				continue
			}
			var err error
			if table[name], err = fileValue(inner); err != nil {
				return nil, err
			}
		}
		return table, nil
	}
	return nil, fmt.Errorf("has null in a list, or something that is no JSON (%T)", value)
}

// Encode gives the file: TOML, and nothing where there are no settings. An error
// says that they are more than are kept.
func (s Settings) Encode() ([]byte, error) {
	if len(s.values) == 0 {
		return []byte{}, nil
	}
	root := map[string]any{}
	for key, value := range s.values {
		at := root
		parts := strings.Split(key, ".")
		for _, p := range parts[:len(parts)-1] {
			inner, ok := at[p].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[p] = inner
			}
			at = inner
		}
		at[parts[len(parts)-1]] = value
	}
	b, err := gotoml.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	b = append([]byte(settingsHead), bytes.TrimLeft(b, "\n")...)
	if len(b) > maxSettings { // the next start would refuse it
		return nil, fmt.Errorf("all that is set while the node runs has %d bytes, at most %d are kept in %s: put the longest lists into parley.toml", len(b), maxSettings, SettingsName)
	}
	return b, nil
}

// Parse makes of text, as in the environment and flags, what JSON and a file
// have for a key.
func Parse(key, text string) (any, error) {
	k, ok := find(key)
	if !ok {
		err := "unknown key"
		if best := Suggest(key, names()); best != "" {
			err += ", did you mean " + best + "?"
		}
		return nil, errors.New(err)
	}
	var c Config
	if key == sinkKey {
		var file map[string]any
		if strings.TrimSpace(text) == "" {
			return []any{}, nil
		}
		if err := gotoml.Unmarshal([]byte(sinkKey+" = "+text), &file); err != nil || len(file) != 1 {
			return nil, fmt.Errorf(`%s is no list like [{ kind = "nats", url = "nats://HOST:4222" }]`, quote(text))
		}
		return file[sinkKey], nil
	}
	field := k.at(&c)
	if err := setText(field, text); err != nil {
		return nil, fmt.Errorf("%s %w", quote(text), err)
	}
	switch p := field.(type) {
	case *bool:
		return *p, nil
	case *int:
		return *p, nil
	case *float64:
		return *p, nil
	case *[]string:
		if *p == nil {
			return []string{}, nil
		}
		return *p, nil
	}
	return text, nil
}
