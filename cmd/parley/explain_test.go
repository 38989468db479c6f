package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/event"
)

var update = flag.Bool("update", false, "rewrite docs/codes.md")

// Every code that the sources say is explained, and no other one.
func TestCodesAreExplained(t *testing.T) {
	said := map[string]string{}
	form := regexp.MustCompile(`PLY-([0-9]{3})|StartError\{Code: ([0-9]{3})`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || d.Name() == "explain.go" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range form.FindAllStringSubmatch(string(b), -1) {
			said["PLY-"+m[1]+m[2]] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for code, path := range said {
		if _, err := explain(code); err != nil {
			t.Errorf("%s says %s: %v", path, code, err)
		}
	}
	for i, e := range codes {
		if said[e.Code] == "" {
			t.Errorf("%s is explained, and nothing says it", e.Code)
		}
		if e.Title == "" || e.Means == "" || e.Do == "" || i > 0 && codes[i-1].Code >= e.Code {
			t.Errorf("%s is not whole, or not in its order", e.Code)
		}
	}
}

// docs/codes.md is the same list.
func TestCodesPage(t *testing.T) {
	b := strings.Builder{}
	b.WriteString("# Codes\n\nWhat `parley explain CODE` says. Codes below 100 are of single requests, others are findings about a node.\n\n| code | title | means | what to do |\n|---|---|---|---|\n")
	for _, e := range codes {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", e.Code, strings.Join(e.titles(), ", "), e.Means, e.Do)
	}
	const page = "../../docs/codes.md"
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != b.String() {
		t.Errorf("docs/codes.md is not what explain says: go test -run CodesPage ./cmd/parley -update (%v)", err)
	}
}

// Every title of a finding and every reason that the sources have is explained,
// under the code that they say with it.
func TestTitlesAreExplained(t *testing.T) {
	forms := []*regexp.Regexp{ // the code, which may be empty, and the title
		regexp.MustCompile(`Code: "?([\w-]+)"?,.*Title: +"([a-z_]+)"`),
		regexp.MustCompile(`"?:? *\{"(PLY-\d{3})", "([a-z_]+)", "`),
		regexp.MustCompile(`(PLY-\d{3})?Check\{Name: "([a-z_]+)"`),
	}
	said := map[string]string{"no_quorum": "PLY-604", "disk_low": "PLY-105", "peers": "PLY-504", "shared_key_refused:": "PLY-513", "banned_by_others": "PLY-514", "validators": "PLY-604"}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || d.Name() == "explain.go" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, form := range forms {
			for _, m := range form.FindAllStringSubmatch(string(b), -1) {
				said[m[2]] = m[1]
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{"shared_key_refused", "old_shared_key", "clock_skew_peers", "lag", "peers", "store", "bans", "program", "sink_down", "block_damaged"} {
		if _, found := said[title]; !found {
			t.Errorf("the sources do not say %s: look at the forms", title)
		}
	}
	delete(said, "findings") // of health: the findings are named in its note
	for title, code := range said {
		e, err := explain(title)
		if err != nil || strings.HasPrefix(code, "PLY-") && e.Code != code {
			t.Errorf("%s of %q: %s, %v", title, code, e.Code, err)
		}
	}
	taken := map[string]string{}
	for _, e := range codes {
		for _, title := range e.titles() {
			if other := taken[strings.ToLower(title)]; other != "" {
				t.Errorf("%s is of %s and %s", title, other, e.Code)
			}
			taken[strings.ToLower(title)] = e.Code
		}
	}
	for text, want := range map[string]string{"disklow": "did you mean disk_low?", "quorum": "did you mean no_quorum?", "xyzzy": "no title of one: "} {
		if _, err := explain(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestExplain(t *testing.T) {
	for text, want := range map[string]string{"PLY-505": "PLY-505", "505": "PLY-505", "ply-6": "PLY-006", "[PLY-017]": "PLY-017", "disk_low": "PLY-105", " Not-Found": "PLY-006"} {
		if e, err := explain(text); err != nil || e.Code != want {
			t.Errorf("%s: %s, %v", text, e.Code, err)
		}
	}
	for _, alarm := range event.AlarmCodes {
		if e, err := explain(alarm); err != nil || e.Title != alarm {
			t.Errorf("alarm %s: %s, %v", alarm, e.Code, err)
		}
	}
	for _, text := range []string{"", "x", "PLY-", "PLY-1000", "PLY-099"} {
		if e, err := explain(text); err == nil {
			t.Errorf("%q is %s", text, e.Code)
		}
	}
	if !slices.IsSortedFunc(codes, func(a, b explained) int { return strings.Compare(a.Code, b.Code) }) {
		t.Error("not in order")
	}
}
