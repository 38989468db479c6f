package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Sinks come of tables in a file, of TOML or YAML, and of one list as text; what is shown can be given again.
func TestSinks(t *testing.T) {
	want := []Sink{
		{Kind: "nats", URL: "nats://10.0.0.7", Subject: "parley.{node}.{type}", Types: []string{"*"}, CredentialsFile: "nats.creds"},
		{Kind: "kafka", URL: "kafka+tls://k1:9093,k2?sasl=plain", Subject: "parley", Types: []string{"block.*", "peer.banned"}},
	}
	const tables = "[[sink]]\nkind = \"nats\"\nurl = \"nats://10.0.0.7\"\ncredentials_file = \"nats.creds\"\n\n" +
		"[[sink]]\nkind = \"kafka\"\nurl = \"kafka+tls://k1:9093,k2?sasl=plain\"\nsubject = \"parley\"\ntypes = [\"block.*\", \"peer.banned\"]\n"
	const yaml = "sink:\n- kind: nats\n  url: nats://10.0.0.7\n  credentials_file: nats.creds\n" +
		"- {kind: kafka, url: 'kafka+tls://k1:9093,k2?sasl=plain', subject: parley, types: [block.*, peer.banned]}\n"
	const text = `[{ kind = "nats", url = "nats://10.0.0.7", subject = "parley.{node}.{type}", types = ["*"], credentials_file = "nats.creds" }, ` +
		`{ kind = "kafka", url = "kafka+tls://k1:9093,k2?sasl=plain", subject = "parley", types = ["block.*", "peer.banned"] }]`
	dir := t.TempDir()
	write(t, dir, "parley.toml", tables)
	write(t, dir, "parley.yaml", yaml)
	for from, args := range map[string]LoadArgs{
		"file parley.toml:1": {Dir: dir},
		"file parley.yaml:1": {Dir: dir, File: "parley.yaml"},
		"env PARLEY_SINK":    {Environ: []string{"PARLEY_SINK=" + text}},
		"flag --set sink":    {Flags: map[string]string{"sink": text}},
	} {
		l := load(t, args)
		if diff := cmp.Diff(want, l.Sinks); diff != "" {
			t.Errorf("%s: %s", from, diff)
		}
		if got := value(l, "sink"); got != (Value{"sink", text, from}) {
			t.Errorf("%s: shown as %+v", from, got)
		}
	}
	if l := load(t, LoadArgs{Dir: dir, Environ: []string{"PARLEY_SINK="}}); len(l.Sinks) != 0 {
		t.Errorf("an empty variable leaves %v", l.Sinks)
	}
	if names := Changed(Config{}, Config{Sinks: want}); len(names) != 1 || names[0] != "sink" {
		t.Errorf("changed %q", names)
	}
}

// Every fault of every sink is told at once, each with its line.
func TestSinkFaults(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "parley.toml", strings.Join([]string{
		"[[sink]]",
		`kind = "amqp"`,
		`url = "amqp://a:5672"`,
		"[[sink]]",
		`kind = "nats"`,
		`url = "nats://ann:hush@a:4222"`,
		`subject = "a..b"`,
		`types = ["block.*", "["]`,
		`credential_file = "x"`,
		"[[sink]]",
		`kind = "kafka"`,
		`url = "kafka://a:9092?sasl=plain"`,
		`subject = "parley/{node}"`,
		`types = "*"`,
		"[[sink]]",
		`url = 1`,
		"[[sink]]",
		`kind = "nats"`,
		`url = "nats://a"`,
		"[[sink]]",
		`kind = "nats"`,
		`url = "nats://a"`,
	}, "\n"))
	_, err := loadIn(t, LoadArgs{Dir: dir})
	want := strings.Join([]string{
		`parley.toml:2:1: sink: sink 1: kind "amqp" is not one of nats, kafka [PLY-101 range]`,
		`parley.toml:9:1: sink: sink 2: credential_file: unknown key, did you mean credentials_file? [PLY-101 unknown_key]`,
		`parley.toml:6:1: sink: sink 2: url a user or password is given by file: put it into credentials_file [PLY-101 secret_value]`,
		`parley.toml:7:1: sink: sink 2: subject "a..b" is not made of words with dots between, such as parley.{node}.{type}: letters, digits, _, - and the words {node} and {type}, at most 200 characters [PLY-101 range]`,
		`parley.toml:8:1: sink: sink 2: types "[" is no pattern: want such as peer.* or block.stored [PLY-101 range]`,
		`parley.toml:14:1: sink: sink 3: types "*" is text: write a list like ["a", "b"] [PLY-101 type]`,
		`parley.toml:12:1: sink: sink 3: url "kafka://a:9092?sasl=plain" would send the password in the clear: use kafka+tls://, or sasl=scram-sha-512 [PLY-101 range]`,
		`parley.toml:13:1: sink: sink 3: subject "parley/{node}" is not made of words with dots between, such as parley.{node}.{type}: letters, digits, _, - and the words {node} and {type}, at most 200 characters [PLY-101 range]`,
		`parley.toml:16:1: sink: sink 4: url 1 is no string [PLY-101 type]`,
		`parley.toml:15:3: sink: sink 4: kind "" is not one of nats, kafka [PLY-101 range]`,
		`parley.toml:20:3: sink: sink 6: is the same place as sink 5: give one of them the types of both [PLY-101 range]`,
	}, "\n")
	if diff := cmp.Diff(want, err.Error()); err == nil || diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"nats://a:4222": `env PARLEY_SINK: sink: "nats://a:4222" is no list like [{ kind = "nats", url = "nats://HOST:4222" }] [PLY-101 type]`,
		"[1]":           `env PARLEY_SINK: sink: sink 1: 1 is no table [PLY-101 type]`,
		"[]\nlog = 1":   `env PARLEY_SINK: sink: "[]\nlog = 1" is no list like [{ kind = "nats", url = "nats://HOST:4222" }] [PLY-101 type]`,
		`[{ kind = "nats", url = "nats://h", credentials_file = "ann:hush" }]`: `env PARLEY_SINK: sink: sink 1: credentials_file looks like the secret itself: give the name of a file that holds it [PLY-101 secret_value]`,
		`[{ kind = "nats", url = "nats://" }]`:                                 `env PARLEY_SINK: sink: sink 1: url "" in "nats://" is not HOST:PORT: want nats://HOST:4222, or tls://HOST:4222 [PLY-101 range]`,
	} {
		_, err := loadIn(t, LoadArgs{Environ: []string{"PARLEY_SINK=" + text}})
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	write(t, dir, "parley.toml", "[sink]\nkind = \"nats\"")
	if _, err := loadIn(t, LoadArgs{Dir: dir}); err == nil || err.Error() != "parley.toml:2:1: sink.kind: is in one table: write [[sink]], with two brackets, for a list of sinks [PLY-101 type]" {
		t.Errorf("one table: %v", err)
	}
}

func TestSinkURL(t *testing.T) {
	for _, tt := range []struct {
		kind, url string
		want      SinkURL
	}{
		{"nats", "nats://h", SinkURL{Servers: []string{"h:4222"}}},
		{"nats", "tls://h:1,[::1],10.0.0.1:3", SinkURL{Servers: []string{"h:1", "[::1]:4222", "10.0.0.1:3"}, TLS: true}},
		{"kafka", "kafka://h,i:1", SinkURL{Servers: []string{"h:9092", "i:1"}, SASL: "scram-sha-512"}},
		{"kafka", "kafka+tls://h?sasl=plain", SinkURL{Servers: []string{"h:9092"}, TLS: true, SASL: "plain"}},
		{"kafka", "kafka://h?sasl=scram-sha-256", SinkURL{Servers: []string{"h:9092"}, SASL: "scram-sha-256"}},
	} {
		got, err := ParseSinkURL(tt.kind, tt.url)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.url, err, diff)
		}
	}
	for _, url := range []string{"", "nats", "nats://", "nats://h,", "http://h", "kafka://h", "nats://h/x", "nats://h?x=1", "nats://h:0", "nats://h:99999", "nats://token@h"} {
		if u, err := ParseSinkURL("nats", url); err == nil {
			t.Errorf("%q is %+v", url, u)
		}
	}
}

func TestSinkSubject(t *testing.T) {
	s := Sink{Subject: "parley.{node}.{type}", Types: []string{"block.*", "peer.banned"}}
	if got := s.SubjectOf("a.b*c> é-1", "block.stored"); got != "parley.a_b_c___-1.block.stored" {
		t.Errorf("subject %s", got)
	}
	for name, want := range map[string]bool{"block.stored": true, "peer.banned": true, "peer.ready": false, "lagged": false} {
		if s.Wants(name) != want {
			t.Errorf("%s: wanted %v", name, !want)
		}
	}
}

// FuzzSinks: whatever is a list of sinks comes back as the same list.
func FuzzSinks(f *testing.F) {
	f.Add(`[{ kind = "nats", url = "nats://h" }]`)
	f.Add(`[{ kind = "kafka", url = "kafka+tls://h,[::1]:1?sasl=plain", subject = "a.{node}", types = ["*"], credentials_file = "f" }]`)
	f.Fuzz(func(t *testing.T, text string) {
		sinks, problems := readSinks(text, true)
		if len(problems) > 0 {
			return
		}
		again, problems := readSinks(formatSinks(sinks), true)
		if diff := cmp.Diff(sinks, again); diff != "" && len(sinks) > 0 || len(problems) > 0 {
			t.Errorf("%v %s", problems, diff)
		}
	})
}
