package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "PARLEY_"

// reservedEnv are PARLEY_ names that are no keys: the command line's node, and the container image's mark.
var reservedEnv = []string{"PARLEY_NODE", "PARLEY_IMAGE"}

// Kubernetes and docker links set these in every container beside a service called parley or parley-….
var (
	serviceEnv = regexp.MustCompile(`^PARLEY_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	linkEnv    = regexp.MustCompile(`^PARLEY_([A-Z0-9]+_)*PORT$`) // with a value like tcp://10.0.0.1:8080, else a mistyped key
)

func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			env[name] = value // the last one counts, as for a child process
		}
	}
	return env
}

// envEntries returns the variables that are keys or aliases, by name. Names without the prefix that are no alias are
// somebody else's.
func envEntries(env map[string]string) []entry {
	var entries []entry
	for name, value := range env {
		e := entry{key: name, value: value, text: true, where: "env " + name, origin: "env " + name}
		if key, ok := strings.CutPrefix(name, envPrefix); ok {
			if slices.Contains(reservedEnv, name) || isServiceEnv(name, value) {
				continue
			}
			e.key, e.native = strings.ToLower(strings.ReplaceAll(key, "__", ".")), true
		} else if a, ok := findAlias(name); !ok || a.fileOnly {
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.where, b.where) })
	return entries
}

func isServiceEnv(name, value string) bool {
	return serviceEnv.MatchString(name) || linkEnv.MatchString(name) && strings.Contains(value, "://")
}

// flagEntries returns the flags by key; sets are stronger.
func flagEntries(flags, sets map[string]string) []entry {
	var entries []entry
	add := func(name, key, value string) {
		entries = append(entries, entry{key: key, value: value, text: true, native: true, where: name, origin: name})
	}
	for key, value := range flags {
		if _, ok := sets[key]; ok {
			continue
		}
		name := "flag --set " + key
		if k, ok := find(key); ok && k.flag != "" {
			name = "flag --" + k.flag
		}
		add(name, key, value)
	}
	for key, value := range sets {
		add("flag --set "+key, key, value)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries
}

// dataDir is the place for a node's data where nothing is set: systemd's state directory (the unit has
// StateDirectory=parley, thus /var/lib/parley), /data in the container image (which sets PARLEY_IMAGE), else the user's.
func dataDir(env map[string]string) (string, bool) {
	if dir, _, _ := strings.Cut(env["STATE_DIRECTORY"], ":"); dir != "" {
		return dir, true
	}
	if env["PARLEY_IMAGE"] != "" {
		return "/data", true
	}
	if dir := env["XDG_DATA_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "parley"), true
	}
	if home := env["HOME"]; home != "" {
		return filepath.Join(home, ".local", "share", "parley"), true
	}
	return "", false
}
