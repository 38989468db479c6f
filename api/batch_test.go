package api

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/parley-p2p/parley"
)

func TestParseLine(t *testing.T) {
	for _, c := range []struct {
		line, subject, body string
		ok                  bool
	}{
		{`{"subject":"s","body":{"a":1}}`, "s", `{"a":1}`, true},
		{`{"subject":"s","a":1,"b":[1, 2]}`, "s", `{"a":1,"b":[1, 2]}`, true},
		{`{"z" : 1e400, "subject":"s", "\u0061" :"\u00e9", "a":"é"}`, "s", `{"z":1e400,"\u0061":"\u00e9","a":"é"}`, true},
		{`{"subject":"s"}`, "s", `{}`, true},
		{`{"subject":"s","nested":{"body":1}}`, "s", `{"nested":{"body":1}}`, true},
		{`{"raw":"00"}`, "", ``, true},
		{`{"a":1}`, "", "", false},
		{`{"subject":1}`, "", "", false},
		{`{"subject":"s","subject":"t"}`, "", "", false},
		{`{"subject":"s","body":1,"colour":2}`, "", "", false},
		{`{"subject":"s"`, "", "", false},
		{`{"subject":"s"}}`, "", "", false},
		{`[1]`, "", "", false},
		{`null`, "", "", false},
		{`"text"`, "", "", false},
	} {
		d, err := parseLine([]byte(c.line))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if c.ok && (d.Subject != c.subject || string(d.Body) != c.body) {
			t.Errorf("%s: subject %q, body %s", c.line, d.Subject, d.Body)
		}
	}
}

func TestRawLine(t *testing.T) {
	for line, want := range map[string]string{
		`{"raw":"00ff"}`: "00ff", `{"raw":""}`: "",
	} {
		if raw, ok := rawLine([]byte(line)); !ok || raw != want {
			t.Errorf("%s: %q, %v", line, raw, ok)
		}
	}
	for _, line := range []string{``, `{"raw":"`, `{"raw":"}`, `{"raw":"0\u0030"}`, `{"raw":"0","raw":"1"}`, `{ "raw":"00"}`, `{"raw":"0G"}`, `{"raw":"00"}}`} {
		if raw, ok := rawLine([]byte(line)); ok {
			t.Errorf("%s: taken as %q", line, raw)
		}
	}
}

func BenchmarkParseLine(b *testing.B) {
	line := append(append([]byte(`{"raw":"`), bytes.Repeat([]byte("0a"), 400)...), '"', '}')
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseLine(line); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{`{"subject":"s","body":{"a":1}}`, `{"subject":"s","a":1,"b":[1, 2]}`, `{"raw":"00"}`, `{"a":`, `{"subject":"s","":{}}`, "{\"subject\":\"\xff\",\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		d, err := parseLine(line)
		if err != nil {
			return
		}
		var plain parley.Draft
		if raw, ok := rawLine(line); ok && (json.Unmarshal(line, &plain) != nil || plain.Raw != raw || d.Raw != raw) {
			t.Fatalf("%q is taken as %q, JSON says %q", line, raw, plain.Raw)
		}
		if d.Body != nil && !json.Valid(d.Body) {
			t.Fatalf("body is no JSON: %s", d.Body)
		}
		if len(d.Body) > len(line)+2 {
			t.Fatalf("a line of %d bytes made a body of %d", len(line), len(d.Body))
		}
	})
}

func TestParseWait(t *testing.T) {
	for _, c := range []struct {
		ack, timeout string
		ok           bool
	}{
		{"", "", true}, {"accepted", "1s", true}, {"committed", "60s", true},
		{"soon", "", false}, {"", "0s", false}, {"", "-1s", false}, {"", "61s", false}, {"", "10", false},
	} {
		if _, err := parseWait(c.ack, c.timeout); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestReadiness(t *testing.T) {
	checks := []parley.Check{{Name: "store", OK: true}, {Name: "peers", Note: "0 of 1"}}
	for _, c := range []struct {
		exclude []string
		verbose bool
		status  int
		text    string
	}{
		{nil, false, 503, "[+] store ok\n[-] peers: 0 of 1\nnot ready\n"},
		{[]string{"peers"}, false, 200, "ready\n"},
		{[]string{"peers"}, true, 200, "[+] store ok\n[ ] peers excluded\nready\n"},
	} {
		if status, text := readiness(checks, c.exclude, c.verbose); status != c.status || text != c.text {
			t.Errorf("%+v: %d %q", c, status, text)
		}
	}
}
