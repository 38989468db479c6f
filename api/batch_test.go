package api

import (
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

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{`{"subject":"s","body":{"a":1}}`, `{"subject":"s","a":1,"b":[1, 2]}`, `{"raw":"00"}`, `{"a":`, `{"subject":"s","":{}}`, "{\"subject\":\"\xff\",\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		d, err := parseLine(line)
		if err != nil {
			return
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
