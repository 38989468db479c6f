package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// home keeps the machine's own files out of a test.
const home = "HOME=/nowhere/home"

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, args LoadArgs) *Loaded {
	t.Helper()
	l, err := loadIn(t, args)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func loadIn(t *testing.T, args LoadArgs) (*Loaded, error) {
	t.Helper()
	if args.Dir == "" {
		args.Dir = t.TempDir()
	}
	args.Environ = append([]string{home}, args.Environ...)
	if args.Hostname == "" {
		args.Hostname = "host-1"
	}
	return Load(args)
}

// TestKeysCoverConfig walks the struct: a field without a key would be a knob that nobody can turn.
func TestKeysCoverConfig(t *testing.T) {
	cfg := Default()
	keyOf := make(map[any]string)
	for _, k := range knobs {
		if other, taken := keyOf[k.at(&cfg)]; taken {
			t.Errorf("%s and %s set one field", k.name, other)
		}
		keyOf[k.at(&cfg)] = k.name
	}
	fields := 0
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f, name := v.Field(i), path+"."+v.Type().Field(i).Name
			if f.Kind() == reflect.Struct {
				walk(f, name)
				continue
			}
			fields++
			if keyOf[f.Addr().Interface()] == "" {
				t.Errorf("field %s has no key", name)
			}
		}
	}
	walk(reflect.ValueOf(&cfg).Elem(), "Config")
	if fields != len(knobs) {
		t.Errorf("%d fields, %d keys", fields, len(knobs))
	}
	for _, k := range Keys() {
		if k.Help == "" || k.Type == "" {
			t.Errorf("key %s has no help or type: %+v", k.Name, k)
		}
	}
}

// TestDefaultsAreLegal sets each default as text: it must pass its own check and come back the same.
func TestDefaultsAreLegal(t *testing.T) {
	for _, k := range Keys() {
		if k.Name == jwtSecretKey || k.Name == sharedKeyKey || k.Name == nodeKeyKey {
			continue
		}
		l := load(t, LoadArgs{Flags: map[string]string{k.Name: k.Default}})
		want := k.Default
		switch k.Name {
		case "data_dir":
			want = "/nowhere/home/.local/share/parley"
		case "node.name":
			want = "host-1"
		}
		if got := value(l, k.Name); got.Value != want || !strings.HasPrefix(got.Origin, "flag --") {
			t.Errorf("%s: %+v, want %q", k.Name, got, want)
		}
	}
}

func value(l *Loaded, key string) Value {
	for _, v := range l.Values() {
		if v.Key == key {
			return v
		}
	}
	return Value{}
}

func TestStrength(t *testing.T) {
	dir := t.TempDir()
	files := func(main, conf string) {
		write(t, dir, "parley.toml", main)
		write(t, dir, "conf.d/10-a.toml", conf)
		write(t, dir, "conf.d/10-a.toml.bak", "nonsense")
	}
	var args LoadArgs
	args.Dir = dir
	step := func(key, want, origin string) {
		t.Helper()
		l := load(t, args)
		if got := value(l, key); got != (Value{key, want, origin}) {
			t.Errorf("got %q from %q, want %q from %q", got.Value, got.Origin, want, origin)
		}
	}
	const peers = "p2p.static_peers"
	step("p2p.port", "9906", "default")
	files("profile = \"devnet\"", "")
	step("p2p.port", "0", "preset devnet")
	files("profile = \"devnet\"\n[p2p]\nport = 1\nstatic_peers = [\"a\"]", "")
	step("p2p.port", "1", "file parley.toml:3")
	step(peers, "a", "file parley.toml:4")
	files("profile = \"devnet\"\n[p2p]\nport = 1\nstatic_peers = [\"a\"]", "\np2p = { port = 2, static_peers = [\"b\"] }")
	step("p2p.port", "2", "file conf.d/10-a.toml:2")
	args.Environ = []string{"PEERS=c, d"}
	step(peers, "c,d", "env PEERS")
	args.Environ = []string{"PEERS=c", "PARLEY_P2P__STATIC_PEERS=e", "PARLEY_P2P__PORT=3"}
	step(peers, "e", "env PARLEY_P2P__STATIC_PEERS")
	step("p2p.port", "3", "env PARLEY_P2P__PORT")
	args.Flags = map[string]string{peers: "f", "p2p.port": "4", "api.rate": "7/s"}
	step(peers, "f", "flag --peers")
	step("p2p.port", "4", "flag --p2p-port")
	step("api.rate", "7/s", "flag --set api.rate")
	args.Sets = map[string]string{"p2p.port": "5"}
	step(peers, "f", "flag --peers")
	step("p2p.port", "5", "flag --set p2p.port")
	if l := load(t, args); !cmp.Equal(l.Warnings, []string{"env PEERS: has no effect, because p2p.static_peers is set too"}) {
		t.Errorf("warnings %q", l.Warnings)
	}
	args.Environ, args.Flags = []string{"PEERS="}, nil // empty is a value too
	step(peers, "", "env PEERS")
}

func TestFileSearch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "user/parley/parley.toml", "network_name = \"user\"")
	env := []string{"XDG_CONFIG_HOME=" + filepath.Join(dir, "user")}
	if l := load(t, LoadArgs{Dir: dir, Environ: env}); l.NetworkName != "user" {
		t.Errorf("user's file: %s", l.NetworkName)
	}
	write(t, dir, "parley.toml", "network_name = \"here\"")
	if l := load(t, LoadArgs{Dir: dir, Environ: env}); l.NetworkName != "here" || l.Origins["network_name"] != "file parley.toml:1" {
		t.Errorf("own file: %s from %s", l.NetworkName, l.Origins["network_name"])
	}
	write(t, dir, "sub/x.yaml", "# prysm\np2p-tcp-port: 13000\np2p-quic-port: 13001\np2p-max-peers: 70\npeer:\n  - /ip4/192.0.2.1/tcp/9906\nnode:\n  name: y\np2p:\np2p-host-ip: '0.0.0.0'\np2p-host-dns: 'node.example.com'\n")
	l := load(t, LoadArgs{Dir: dir, Environ: env, File: "sub/x.yaml"})
	if l.NetworkName != "main" || l.P2P.Port != 13000 || l.P2P.QUICPort != 13001 || l.P2P.MaxPeers != 70 || l.Node.Name != "y" ||
		l.P2P.HostIP != "0.0.0.0" || l.P2P.HostDNS != "node.example.com" || l.Origins["p2p.host_dns"] != "file sub/x.yaml:11 p2p-host-dns" ||
		!cmp.Equal(l.P2P.StaticPeers, []string{"/ip4/192.0.2.1/tcp/9906"}) {
		t.Errorf("YAML: %+v", l.Config)
	}
	if got := l.Origins["node.name"]; got != "file sub/x.yaml:8" {
		t.Errorf("origin in YAML %q", got)
	}
	if got := l.Origins["p2p.port"]; got != "file sub/x.yaml:2 p2p-tcp-port" {
		t.Errorf("origin of an alias %q", got)
	}
	_, err := loadIn(t, LoadArgs{Dir: dir, File: "gone.toml"})
	if err == nil || err.Error() != "gone.toml: open: no such file or directory [PLY-101 file]" {
		t.Errorf("missing file: %v", err)
	}
}

// What shows a configuration shows no password of a URL.
func TestValuesWithoutPasswords(t *testing.T) {
	for store, want := range map[string]string{
		"postgres://ann:s:e/c@ret@db/bans":                                     "postgres://ann:s:e/c@ret@db/bans", // no URL, and refused as such
		"postgres://ann:sec@ret@db:5432/bans":                                  "postgres://ann:***@db:5432/bans",
		"postgres://ann@db/bans?sslmode=off&password=secret&sslpassword=x&a=b": "postgres://ann@db/bans?sslmode=off&password=***&sslpassword=***&a=b",
		"postgres://ann@db/bans":                                               "postgres://ann@db/bans",
		"bans.db":                                                              "bans.db",
	} {
		l := Loaded{Config: Default()}
		l.Config.Bans.Store = store
		for _, v := range l.Values() {
			if v.Key == "bans.store" && v.Value != want {
				t.Errorf("%s is shown as %s, want %s", store, v.Value, want)
			}
		}
	}
}

func TestSecret(t *testing.T) {
	const text = "0123456789abcdef0123456789abcdef-secret"
	l := load(t, LoadArgs{Environ: []string{"JWT_SECRET=" + text}})
	if string(l.API.JWTSecret) != text {
		t.Fatalf("secret not taken over")
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "cfg", l.Config, "secret", l.API.JWTSecret)
	fmt.Fprintf(&b, "%v %+v %#v %s %q %x %v", l.Config, l.Config, l.Config, l.API.JWTSecret, l.API.JWTSecret, l.API.JWTSecret, l.Values())
	if strings.Contains(b.String(), text) || strings.Contains(b.String(), fmt.Sprintf("%x", text)) {
		t.Errorf("secret printed: %s", b.String())
	}
	l = load(t, LoadArgs{Environ: []string{"JWT_SECRET=" + text, "PARLEY_API__JWT_SECRET_FILE=f"}})
	if l.API.JWTSecret != "" || l.API.JWTSecretFile != "f" {
		t.Errorf("native key did not win: %+v", l.API)
	}
	dir := t.TempDir()
	write(t, dir, "parley.toml", "JWT_SECRET = \""+text+"\"")
	if l = load(t, LoadArgs{Dir: dir}); l.API.JWTSecret == "" {
		t.Error("secret in a file not taken over")
	}
	l = load(t, LoadArgs{Dir: dir, Flags: map[string]string{"api.jwt_secret_file": "g"}})
	if l.API.JWTSecret != "" || l.Origins["api.jwt_secret"] != "default" {
		t.Errorf("stronger file did not win over the weaker secret")
	}
	l = load(t, LoadArgs{Environ: []string{"JWT_SECRET=short"}})
	if len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "[PLY-111]") || strings.Contains(l.Warnings[0], "short") {
		t.Errorf("short secret: %q", l.Warnings)
	}
	for key, v := range map[string]string{"api.jwt_secret": text, "api.jwt_secret_file": strings.Repeat("ab", 32)} {
		_, err := loadIn(t, LoadArgs{Flags: map[string]string{key: v}})
		if err == nil || !strings.Contains(err.Error(), "secret_value") || strings.Contains(err.Error(), v) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// A certificate needs its key, and who asks for HTTPS gets no plain HTTP.
func TestTLS(t *testing.T) {
	for text, want := range map[string]string{
		"securityLevelHTTP=1":              "env securityLevelHTTP: api.tls_cert: HTTPS needs a certificate",
		"securityLevelHTTP=2":              `env securityLevelHTTP: api.tls_cert: "2" is neither 0 nor 1`,
		"server_certFile=c.pem":            "env server_certFile: api.tls_cert: is set without api.tls_key",
		"server_keyFile=k.pem":             "env server_keyFile: api.tls_key: is set without api.tls_cert",
		"PARLEY_API__TLS_CERT=c.pem":       "env PARLEY_API__TLS_CERT: api.tls_cert: is set without api.tls_key",
		"PARLEY_API__TLS_KEY=-----BEGIN\n": "[PLY-101 secret_value]",
		"securityLevelHTTP=0":              "",
		"securityLevelHTTP=1 server_certFile=c.pem server_keyFile=k.pem":      "",
		"securityLevelHTTP=1 PARLEY_API__TLS_CERT=c.pem server_keyFile=k.pem": "",
	} {
		l, err := loadIn(t, LoadArgs{Environ: strings.Split(text, " ")})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", text, err, want)
		case want == "" && strings.Contains(text, "server_keyFile") && (l.API.TLSCert != "c.pem" || l.API.TLSKey != "k.pem"):
			t.Errorf("%s: %+v", text, l.API)
		}
	}
}

func TestCORS(t *testing.T) {
	for text, want := range map[string]string{
		"PARLEY_API__CORS=https://a.example,http://localhost:5173": "",
		"PARLEY_API__CORS=*": "",
		"PARLEY_API__CORS=* PARLEY_API__PUBLIC_READ=false": "[PLY-101 range]",
		"PARLEY_API__CORS=a.example":                       "is no origin",
		"PARLEY_API__CORS=https://a.example/":              "is no origin",
		"PARLEY_API__CORS=https://*.a.example":             "is no origin",
		"PARLEY_API__CORS=ftp://a.example":                 "is no origin",
		"PARLEY_API__COMPAT=jsonrpc,beacon":                "",
		"PARLEY_API__COMPAT=":                              "",
		"PARLEY_API__COMPAT=jsonrpc,soap":                  `"soap" is none of provchain, teranode, beacon, prysm, jsonrpc`,
	} {
		if _, err := loadIn(t, LoadArgs{Environ: strings.Split(text, " ")}); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestMachine(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"A=b", "/nowhere/home/.local/share/parley"},
		{"XDG_DATA_HOME=/x", "/x/parley"},
		{"PARLEY_IMAGE=1", "/data"},
		{"STATE_DIRECTORY=/var/lib/parley:/var/lib/other", "/var/lib/parley"},
		{"PARLEY_DATA_DIR=d", "d"},
	} {
		if l := load(t, LoadArgs{Environ: []string{tt.env}}); l.DataDir != tt.want {
			t.Errorf("%s: data_dir %q, want %q", tt.env, l.DataDir, tt.want)
		}
	}
	_, err := Load(LoadArgs{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "default: data_dir: has no default without HOME") {
		t.Errorf("no HOME: %v", err)
	}
	l := load(t, LoadArgs{Hostname: strings.Repeat("h", 70), Environ: []string{"PARLEY_DATA_DIR=/d"}})
	if len(l.Node.Name) != maxNodeName {
		t.Errorf("name of %d bytes", len(l.Node.Name))
	}
	if l.Path("node.key") != "/d/node.key" || l.Path("/k") != "/k" || l.Path("") != "" {
		t.Errorf("paths %q %q %q", l.Path("node.key"), l.Path("/k"), l.Path(""))
	}
}

func TestTexts(t *testing.T) {
	for text, want := range map[string]Size{"64MiB": 64 << 20, "1536KiB": 1536 << 10, "10": 10, "10B": 10, "0": 0, "2 GiB": 2 << 30} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		if again, err := ParseSize(got.String()); err != nil || again != got {
			t.Errorf("%s: %s comes back as %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "9999999TiB", "64MB", "+1", "1MiB "} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is size %s", text, got)
		}
	}
	for _, text := range []string{"", "50", "/s", "-1/s", "50/m", "9999999999/s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is rate %s", text, got)
		}
	}
	for d, want := range map[time.Duration]string{10 * time.Second: "10s", time.Hour: "1h", 90 * time.Minute: "1h30m", 250 * time.Millisecond: "250ms", 0: "0s", time.Minute: "1m", 10 * time.Minute: "10m"} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
	root, rooms, err := ParseLogLevel("warn,p2p.gossip=debug")
	if err != nil || root != slog.LevelWarn || rooms["p2p.gossip"] != slog.LevelDebug {
		t.Errorf("log level: %v %v %v", root, rooms, err)
	}
	for _, text := range []string{"", "loud", "=debug", "info,", "a=b"} {
		if _, _, err := ParseLogLevel(text); err == nil {
			t.Errorf("log level %q passes", text)
		}
	}
	for _, text := range []string{":8080", "[::1]:1?", "unix:/p?", "localhost:80"} {
		if l, err := ParseListen(text); err != nil || l.String() != text {
			t.Errorf("%s: %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "8080", "unix:", "::1:80", "h:65536", "h:x", "/p", "http://h:1"} {
		if l, err := ParseListen(text); err == nil {
			t.Errorf("%q is listener %v", text, l)
		}
	}
}

func TestLists(t *testing.T) {
	for _, tt := range []struct{ key, text, want string }{
		{"p2p.static_peers", "a:1,b:2", "a:1,b:2"},
		{"p2p.static_peers", `["a:1", "b:2"]`, "a:1,b:2"},
		{"p2p.static_peers", "[a:1,b:2]", "a:1,b:2"}, // a shell took the quotes
		{"p2p.static_peers", "[]", ""},
		{"p2p.static_peers", "[2001:db8::1]:1,[2001:db8::2]:2", "[2001:db8::1]:1,[2001:db8::2]:2"},
		{"p2p.static_peers", "[[2001:db8::1]:1,[2001:db8::2]:2]", "[2001:db8::1]:1,[2001:db8::2]:2"},
		{"p2p.static_peers", "[2001:db8::1]", "[2001:db8::1]"},
		{"api.allowed_hosts", "['a', 'b']", "a,b"},
		{"api.allowed_hosts", "a, b,", "a,b"},
		{"p2p.listen", "0.0.0.0:9907", "/ip4/0.0.0.0/tcp/9907,/ip4/0.0.0.0/udp/9907/quic-v1"},
		{"p2p.listen", "192.0.2.7,[::1]:9907", "192.0.2.7,/ip6/::1/tcp/9907,/ip6/::1/udp/9907/quic-v1"},
		{"p2p.listen", ":9907", "/ip4/0.0.0.0/tcp/9907,/ip4/0.0.0.0/udp/9907/quic-v1,/ip6/::/tcp/9907,/ip6/::/udp/9907/quic-v1"},
	} {
		l := load(t, LoadArgs{Flags: map[string]string{tt.key: tt.text}})
		if k, _ := find(tt.key); format(k.at(&l.Config)) != tt.want {
			t.Errorf("%s=%s is %s, want %s", tt.key, tt.text, format(k.at(&l.Config)), tt.want)
		}
	}
}
