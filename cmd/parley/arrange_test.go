package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestArrange shows one list as a user may ask for it.
func TestArrange(t *testing.T) {
	body := []byte(`{"items":[{"n":"ann"},{"n":"Ben"},{"n":"cat"},{"n":"dan"}],"count":4,"next_cursor":null}`)
	view := func() (*table, error) {
		v := &table{columns: []column{{name: "NAME"}, {name: "UP", right: true}, {name: "SIZE", right: true}, {name: "FULL ID", wide: true}, {name: "NOTE", cut: true}}, empty: "nobody"}
		v.add("ann", "2h", "900 B", "x1", "a note")
		v.add("Ben", "30s", "1.5 KiB", "x2", "")
		v.add("cat", "", "3 MiB", "x3", "note")
		v.add("dan", "5m", "1.5 KiB", "x4", "")
		return v, nil
	}
	for _, c := range []struct {
		a            arrange
		output, want string
	}{
		{arrange{columns: []string{"note", "Full_ID"}, filters: []string{"NOTE~NOTE"}}, "csv", "note,full_id\na note,x1\nnote,x3\n"},
		{arrange{sort: "up", columns: []string{"name"}}, "csv", "name\nBen\ndan\nann\ncat\n"}, // by time, and unknown is last
		{arrange{sort: "-up", columns: []string{"name"}}, "csv", "name\nann\ndan\nBen\ncat\n"},
		{arrange{sort: "size", columns: []string{"name"}}, "csv", "name\nann\nBen\ndan\ncat\n"}, // equal ones stay as they were
		{arrange{sort: "-name", columns: []string{"name"}, filters: []string{"size<=1.5KiB"}}, "csv", "name\ndan\nBen\nann\n"},
		{arrange{filters: []string{"SIZE>1KiB", "name!=ben"}, columns: []string{"name"}}, "table", "NAME\ncat\ndan\n"},
		{arrange{filters: []string{"name=BEN"}, sort: "up"}, "json", `{"count":1,"items":[{"n":"Ben"}],"next_cursor":null}` + "\n"},
		{arrange{sort: "-name"}, "jsonl", "{\"n\":\"dan\"}\n{\"n\":\"cat\"}\n{\"n\":\"Ben\"}\n{\"n\":\"ann\"}\n"},
		{arrange{filters: []string{"full_id=x9"}}, "table", "no row fits --filter full_id=x9\n"},
	} {
		var out bytes.Buffer
		g := &globals{output: c.output, arrange: c.a, out: &out, err: &out}
		if err := g.show(body, view); err != nil || out.String() != c.want {
			t.Errorf("%+v: %v %q, want %q", c.a, err, out.String(), c.want)
		}
	}
	for _, c := range []struct {
		a            arrange
		output, want string
	}{
		{arrange{sort: "nane"}, "table", `--sort: no column "nane", did you mean name?`},
		{arrange{columns: []string{"name", "x"}}, "csv", `--columns: no column "x": there are name,`},
		{arrange{filters: []string{"x=1"}}, "json", `--filter: no column "x"`},
		{arrange{filters: []string{"up"}}, "table", "want COL=TEXT"},
		{arrange{filters: []string{"up>long"}}, "table", "> wants an amount such as 12, 30s or 4KiB"},
		{arrange{columns: []string{"name"}}, "json", "-o template=T chooses of JSON"},
	} {
		g := &globals{output: c.output, arrange: c.a, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
		err := g.show(body, view)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(t.Context(), err) != exitUsage {
			t.Errorf("%+v: %v, want %q", c.a, err, c.want)
		}
	}
	if g := (&globals{output: "json", arrange: arrange{sort: "name"}, out: &bytes.Buffer{}}); g.show([]byte(`{"items":[{}]}`), view) == nil {
		t.Error("items were matched to rows that are not theirs")
	}
	if plain, err := (&arrange{}).items(body, view); err != nil || !bytes.Equal(plain, body) || !json.Valid(plain) {
		t.Errorf("an answer that nobody wants arranged is another one: %s", plain)
	}
}
