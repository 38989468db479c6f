package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

const maxSettings = 1 << 20 // bytes of another system's

// configFlags are the flags that set configuration keys: those with a flag of
// their own, and --set for all.
type configFlags struct {
	flags *pflag.FlagSet
	keys  map[string]string // flag → key
	sets  []string
}

func addConfigFlags(c *cobra.Command) *configFlags {
	f := &configFlags{flags: c.Flags(), keys: map[string]string{}}
	for _, k := range config.Keys() {
		if k.Flag == "" || k.Name == "data_dir" { // a global flag
			continue
		}
		f.keys[k.Flag] = k.Name
		c.Flags().String(k.Flag, k.Default, k.Help)
	}
	c.Flags().StringArrayVar(&f.sets, "set", nil, "any configuration key, as KEY=VALUE, repeatable; a list as KEY=A,B")
	return f
}

// args are the keys that were set.
func (f *configFlags) args() (config.LoadArgs, error) {
	a := config.LoadArgs{Flags: map[string]string{}, Sets: map[string]string{}}
	f.flags.Visit(func(flag *pflag.Flag) {
		if key, ok := f.keys[flag.Name]; ok {
			a.Flags[key] = flag.Value.String()
		}
	})
	for _, set := range f.sets {
		key, value, ok := strings.Cut(set, "=")
		if !ok || key == "" {
			return a, fail(exitUsage, "--set %s: want KEY=VALUE", set)
		}
		if before, given := a.Sets[key]; given && isList(key) { // each --set adds to a list
			value = before + "," + value
		}
		a.Sets[key] = value
	}
	return a, nil
}

func isList(key string) bool {
	return slices.ContainsFunc(config.Keys(), func(k config.Key) bool { return k.Name == key && k.Type == "list" })
}

func (g *globals) loadFlags(f *configFlags) (*config.Loaded, error) {
	args, err := f.args()
	if err != nil {
		return nil, err
	}
	return g.loadWith(args)
}

func configCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "The configuration: where each value comes from",
		Example: "parley config show --origin\nparley config get p2p.port\nparley config set log.level info,p2p=debug\nparley config validate --config parley.toml\nparley config reload",
	}
	c.AddCommand(configShowCommand(g), configGetCommand(g), configSetCommand(g), configValidateCommand(g), configInitCommand(g), configImportCommand(g), configReloadCommand(g), configSchemaCommand(g))
	return c
}

func configShowCommand(g *globals) *cobra.Command {
	var origin bool
	c := &cobra.Command{Use: "show", Short: "Every key with its value", Args: cobra.NoArgs, Long: configLong, Example: "parley config show --origin\nparley config show --config parley.toml"}
	flags := addConfigFlags(c)
	c.Flags().BoolVar(&origin, "origin", false, "and where the value comes from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		values, err := g.configValues(c.Context(), flags)
		if err != nil {
			return err
		}
		l := list[config.Value]{Items: values}
		l.Count = len(l.Items)
		return g.showValue(l, func() *table {
			t := &table{columns: []column{{name: "KEY"}, {name: "VALUE"}, {name: "ORIGIN", wide: !origin}}}
			for _, v := range l.Items {
				t.add(v.Key, v.Value, v.Origin)
			}
			return t
		})
	}
	return c
}

const configLong = "Of the node that --node or PARLEY_NODE names, or that runs on the data directory: what acts. Where none runs, or with --config or\n" +
	"a key's flag: what files, environment and flags say for a start; stderr tells which files."

// configValues are those of the running node, else those of files, environment
// and flags.
func (g *globals) configValues(ctx context.Context, f *configFlags) ([]config.Value, error) {
	args, err := f.args()
	if err != nil {
		return nil, err
	}
	why := "these are not the values of a running node"
	if len(args.Flags)+len(args.Sets) == 0 && (g.config == "" || g.node != "" || g.bundle != "") {
		values, err := g.runningValues(ctx)
		var unreached *codeError
		switch {
		case err == nil && values != nil:
			return values, nil
		case err == nil:
			why = "no node runs on the data directory"
		case g.node != "" || g.bundle != "" || !errors.As(err, &unreached) || unreached.code != exitUnreachable:
			return nil, err
		default:
			why = unreached.Error()
		}
	}
	cfg, err := g.loadWith(args)
	if err != nil {
		return nil, err
	}
	g.warn(cfg)
	from := "no file was found: environment, flags and defaults"
	if len(cfg.Files) > 0 {
		from = "read " + strings.Join(cfg.Files, ", ")
	}
	g.say("%s; %s", why, from)
	return cfg.Values(), nil
}

// runningValues asks the node that the user names, or that of the data
// directory; nil = there is none.
func (g *globals) runningValues(ctx context.Context) ([]config.Value, error) {
	of := *g
	if of.node == "" && of.dataDir == "" && of.config == "" {
		of.node = os.Getenv("PARLEY_NODE")
	}
	if of.node == "" && of.bundle == "" {
		cfg, err := g.load()
		if err != nil {
			return nil, err
		}
		path := parley.SocketPath(cfg.DataDir)
		if _, err := os.Stat(path); err != nil {
			return nil, nil //nolint:nilnil,nilerr // none is an answer
		}
		of.node = "unix:" + path
	}
	c, err := of.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := c.get(ctx, "config")
	if err != nil {
		return nil, err
	}
	l, err := decode[list[config.Value]](body)
	if err == nil {
		g.say("with these values %s runs; for those of a next start name --config", c.name)
	}
	return l.Items, err
}

func (g *globals) warn(cfg *config.Loaded) {
	for _, w := range cfg.Warnings {
		g.say("warning: %s", w)
	}
}

func configGetCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "get KEY", Short: "The value of one key", Args: cobra.ExactArgs(1), Long: configLong, Example: "parley config get p2p.port"}
	flags := addConfigFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		values, err := g.configValues(c.Context(), flags)
		if err != nil {
			return err
		}
		for _, v := range values {
			if v.Key == args[0] {
				_, err := fmt.Fprintln(g.out, v.Value)
				return err
			}
		}
		names := make([]string, len(values))
		for i, v := range values {
			names[i] = v.Key
		}
		if best := config.Suggest(args[0], names); best != "" {
			return fail(exitNotFound, "no key %q, did you mean %s?", args[0], best)
		}
		return fail(exitNotFound, "no key %q: parley config show lists them", args[0])
	}
	return c
}

func configValidateCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "validate", Short: "All that is wrong with the configuration, at once", Args: cobra.NoArgs,
		Example: "parley config validate --config parley.toml"}
	flags := addConfigFlags(c)
	c.RunE = func(*cobra.Command, []string) error {
		cfg, err := g.loadFlags(flags)
		if err != nil {
			return err
		}
		g.warn(cfg)
		from := "no file was found, so it is that of environment and flags"
		if len(cfg.Files) > 0 {
			from = "read " + strings.Join(cfg.Files, ", ")
		}
		_, err = fmt.Fprintf(g.out, "the configuration is good: %s\n", from)
		return err
	}
	return c
}

func configInitCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "init [FILE]", Short: "Write a file with every key, its default and its meaning", Args: cobra.MaximumNArgs(1),
		Example: "parley config init parley.toml",
		RunE: func(_ *cobra.Command, args []string) error {
			path := "parley.toml"
			if len(args) == 1 {
				path = args[0]
			}
			if path == "-" {
				_, err := fmt.Fprint(g.out, sampleConfig())
				return err
			}
			if err := createFile(path, []byte(sampleConfig()), 0o644); err != nil {
				return err
			}
			g.say("wrote %s: every key stands as a comment with its default", path)
			return nil
		},
	}
}

func configSchemaCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "A configuration file as JSON Schema, for editors", Args: cobra.NoArgs, Example: "parley config schema > parley.schema.json",
		Long: "Editors with a TOML language server check a file that begins with the line\n#:schema ./parley.schema.json",
		RunE: func(*cobra.Command, []string) error {
			schema, err := config.Schema()
			if err != nil {
				return err
			}
			return writeLine(g.out, schema)
		},
	}
}

func configImportCommand(g *globals) *cobra.Command {
	var from, scope, out string
	c := &cobra.Command{
		Use: "import FILE", Short: "Make a configuration file of another system's settings", Args: cobra.ExactArgs(1),
		Long: "Of provchain FILE has lines NAME=VALUE, as for --env-file, or is a compose file; of prysm it is YAML of flags; of teranode it is\n" +
			"settings.conf, of which --context chooses, such as dev.me. - is stdin. What has no key here is named on stderr. Secrets are not written.",
		Example: "parley config import --from provchain node.env > parley.toml\nparley config import --from teranode settings.conf \\\n--context dev.me --out parley.toml\nparley config import --from prysm prysm.yaml",
	}
	c.Flags().StringVar(&from, "from", "", "provchain, prysm or teranode")
	c.Flags().StringVar(&scope, "context", os.Getenv("SETTINGS_CONTEXT"), "of Teranode's settings, such as dev.me; default: SETTINGS_CONTEXT")
	c.Flags().StringVar(&out, "out", "", "write to this file, which must not exist; default: stdout")
	c.RunE = func(c *cobra.Command, args []string) error {
		if from == "" {
			return usage(c, errors.New("--from is missing: want provchain, prysm or teranode"))
		}
		if from != config.FromProvChain && from != config.FromPrysm && from != config.FromTeranode {
			return usage(c, fmt.Errorf("--from %q: want provchain, prysm or teranode", from))
		}
		data, err := g.readMost(args[0], maxSettings, "give the settings alone")
		if err != nil {
			return err
		}
		made, err := config.Import(from, data, args[0], scope)
		if err != nil {
			return err
		}
		for _, note := range made.Notes {
			g.say("%s", note)
		}
		if out == "" {
			_, err = fmt.Fprint(g.out, made.TOML)
			return err
		}
		if err := createFile(out, []byte(made.TOML), 0o644); err != nil {
			return err
		}
		g.say("wrote %s", out)
		return nil
	}
	return c
}

func configReloadCommand(g *globals) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "reload", Short: "Have the node read its configuration again, as SIGHUP does", Args: cobra.NoArgs,
		Long: "These act at once: " + strings.Join(liveKeys(), ", ") + ".\nWhat else has changed is named, and waits for a restart.\n" +
			"The files of bans.import are read again too. A wrong configuration changes nothing. Neither does one without a shared key that connected peers need; with --force they are cut off.",
		Example: "parley config reload\nparley config reload --data-dir node2 --force",
		RunE: func(c *cobra.Command, _ []string) error {
			if g.named() == "" { // it is this machine's, and what is wrong with it is told here
				if _, err := g.load(); err != nil {
					return err
				}
			}
			path := "config/reload"
			if force {
				path += "?force=true"
			}
			return configFault(changePeer(c.Context(), g, http.MethodPost, path, nil, viewReloaded))
		},
	}
	c.Flags().BoolVar(&force, "force", false, "remove a shared key though peers are connected under it alone")
	return c
}

// configFault gives a configuration that the node finds wrong the exit code of
// one that is found wrong here.
func configFault(err error) error {
	if no, ok := errors.AsType[*apiError](err); ok && no.Code == "PLY-003" {
		return &codeError{exitConfig, err}
	}
	return err
}

// liveKeys are those that a running node takes over.
func liveKeys() []string {
	var names []string
	for _, k := range config.Keys() {
		if k.Live {
			names = append(names, k.Name)
		}
	}
	return names
}

func viewReloaded(r parley.Reloaded) *table {
	t := &table{}
	t.add("changed", cmp.Or(strings.Join(r.Changed, ", "), "nothing"))
	if len(r.NeedsRestart) > 0 {
		t.add("needs a restart", strings.Join(r.NeedsRestart, ", "))
	}
	return t
}

func configSetCommand(g *globals) *cobra.Command {
	var unset bool
	c := &cobra.Command{
		Use: "set KEY [VALUE]", Short: "Change a key of the running node, at once and for later starts", Args: cobra.RangeArgs(1, 2),
		Long: "VALUE is as with --set. It is kept in " + config.SettingsName + " of the data directory, which is stronger than other files and weaker than environment\n" +
			"and flags; --unset takes it back. For a running node these can be set: " + strings.Join(liveKeys(), ", ") + ";\n" +
			"those that name files by its local socket alone. Others stand in its file, and act from the next start on.\n" +
			"A wrong key or value ends with 78, as with parley run, and changes nothing.",
		Example: "parley config set log.level info,p2p.gossip=debug\nparley config set api.cors https://app.example.org\nparley config set api.public_read --unset\n" +
			"parley config set p2p.static_peers node1:8080,node2:8080",
	}
	c.Flags().BoolVar(&unset, "unset", false, "go back to what files, environment and flags say")
	c.RunE = func(c *cobra.Command, args []string) error {
		if unset == (len(args) == 2) {
			return usage(c, errors.New("want KEY and VALUE, or KEY and --unset"))
		}
		if i := slices.IndexFunc(config.Keys(), func(k config.Key) bool { return k.Name == args[0] && !k.Live }); i >= 0 {
			return fail(exitConfig, "%s acts from the next start on: set it in the node's parley.toml, or by environment or flag, and start it again; nothing has changed [PLY-101]", args[0])
		}
		var value any
		if !unset {
			var err error
			if value, err = config.Parse(args[0], args[1]); err != nil {
				return fail(exitConfig, "%s: %w [PLY-101]", args[0], err)
			}
		}
		return configFault(changePeer(c.Context(), g, http.MethodPatch, "config", map[string]any{args[0]: value}, viewReloaded))
	}
	return c
}

// sampleConfig is a file that sets nothing and shows everything. Keys without
// a section stand first, as TOML wants it.
func sampleConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# parley configuration. Values are the defaults; remove the # to change one. A running node takes over those\n"+
		"# marked R by parley config reload; others act from the next start on.\n")
	var sections []string
	bySection := map[string][]config.Key{}
	for _, k := range config.Keys() {
		if k.Type == "secret" {
			continue // never in a file
		}
		section := ""
		if i := strings.LastIndexByte(k.Name, '.'); i >= 0 {
			section = k.Name[:i]
		}
		if bySection[section] == nil {
			sections = append(sections, section)
		}
		bySection[section] = append(bySection[section], k)
	}
	for _, section := range sections {
		if section != "" {
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		for _, k := range bySection[section] {
			help := k.Help
			if k.Live {
				help = "R " + help
			}
			fmt.Fprintf(&b, "# %-42s # %s\n", k.Name[strings.LastIndexByte(k.Name, '.')+1:]+" = "+tomlValue(k), help)
		}
	}
	return b.String()
}

func tomlValue(k config.Key) string {
	switch k.Type {
	case "bool", "int", "number":
		return k.Default
	case "tables":
		return "[]"
	case "list":
		items := []string{}
		for item := range strings.SplitSeq(k.Default, ",") {
			if item != "" {
				items = append(items, strconv.Quote(item))
			}
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return strconv.Quote(k.Default)
}
