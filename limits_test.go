package parley_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/event"
)

// limitsPage names each limit, where it stands in the code and what proves it.
const limitsPage = "docs/limits.md"

// TestLimitsPage: each constant that the page names has the value that it tells,
// each test that it names is there, and no alarm is left out. Who changes a limit
// changes the page.
func TestLimitsPage(t *testing.T) {
	page, err := os.ReadFile(limitsPage)
	if err != nil {
		t.Fatal(err)
	}
	rooms := map[string]*source{}
	room := func(dir string) *source {
		if rooms[dir] == nil {
			rooms[dir] = readSource(t, dir)
		}
		return rooms[dir]
	}
	rows, values := 0, 0
	var alarms []string
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 4 || strings.HasPrefix(line, "| What") || strings.HasPrefix(line, "| Alarm") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		what, limit, code, tests := cells[0], cells[1], cells[2], cells[3]
		rows++
		if alarm, ok := strings.CutPrefix(what, "`"); ok {
			alarms = append(alarms, strings.TrimSuffix(alarm, "`"))
		}
		for dir, names := range named(code) {
			for _, name := range names {
				v, err := room(dir).value(name)
				if err != nil {
					t.Errorf("%s: %s: %v", what, dir, err)
				} else if !tells(limit, v) {
					t.Errorf("%s: the limit is told as %q, and %s: %s is %v", what, limit, dir, name, v)
				}
				values++
			}
		}
		proofs := 0
		for dir, names := range named(tests) {
			for _, name := range names {
				if !room(dir).tests[name] {
					t.Errorf("%s: %s has no test %s", what, dir, name)
				}
				proofs++
			}
		}
		if proofs == 0 {
			t.Errorf("%s: no test is named", what)
		}
	}
	if rows < 60 || values < 60 {
		t.Errorf("%d rows with %d constants: the page is not read", rows, values)
	}
	slices.Sort(alarms)
	if want := slices.Sorted(slices.Values(event.AlarmCodes)); !slices.Equal(alarms, want) {
		t.Errorf("alarms on the page %v, there are %v", alarms, want)
	}
}

// named reads a cell like `internal/p2p/host: maxLobby, lobbyTime; event: x`.
func named(cell string) map[string][]string {
	out := map[string][]string{}
	for part := range strings.SplitSeq(strings.ReplaceAll(cell, "`", ""), ";") {
		dir, names, ok := strings.Cut(part, ":")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			out[strings.TrimSpace(dir)] = append(out[strings.TrimSpace(dir)], strings.TrimSpace(name))
		}
	}
	return out
}

// source is the constants of a room, and the names of its tests.
type source struct {
	consts map[string]ast.Expr
	tests  map[string]bool
}

func readSource(t *testing.T, dir string) *source {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no room, %v", dir, err)
	}
	s := &source{consts: map[string]ast.Expr{}, tests: map[string]bool{}}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				s.tests[d.Name.Name] = strings.HasSuffix(file, "_test.go")
			case *ast.GenDecl:
				if d.Tok != token.CONST || strings.HasSuffix(file, "_test.go") {
					continue
				}
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					for i, name := range v.Names {
						if i < len(v.Values) {
							s.consts[name.Name] = v.Values[i]
						}
					}
				}
			}
		}
	}
	return s
}

// quantity is a number, or a time.
type quantity struct {
	number constant.Value
	isTime bool
}

func (q quantity) String() string {
	if n, ok := constant.Int64Val(constant.ToInt(q.number)); ok && q.isTime {
		return time.Duration(n).String()
	}
	return q.number.String()
}

func (s *source) value(name string) (quantity, error) {
	e, ok := s.consts[name]
	if !ok {
		return quantity{}, fmt.Errorf("no constant %s", name)
	}
	return s.eval(e)
}

var units = map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}

func (s *source) eval(e ast.Expr) (quantity, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return quantity{number: constant.MakeFromLiteral(e.Value, e.Kind, 0)}, nil
	case *ast.ParenExpr:
		return s.eval(e.X)
	case *ast.UnaryExpr:
		x, err := s.eval(e.X)
		if err == nil {
			x.number = constant.UnaryOp(e.Op, x.number, 0)
		}
		return x, err
	case *ast.Ident:
		return s.value(e.Name)
	case *ast.SelectorExpr:
		if unit, ok := units[e.Sel.Name]; ok {
			return quantity{constant.MakeInt64(int64(unit)), true}, nil
		}
	case *ast.BinaryExpr:
		x, err := s.eval(e.X)
		if err != nil {
			return x, err
		}
		y, err := s.eval(e.Y)
		if err != nil {
			return y, err
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y.number)
			return quantity{number: constant.Shift(x.number, e.Op, uint(n))}, nil
		}
		return quantity{constant.BinaryOp(x.number, e.Op, y.number), x.isTime || y.isTime}, nil
	}
	return quantity{}, fmt.Errorf("a constant that this test cannot read: %T", e)
}

var amounts = regexp.MustCompile(`(−?[0-9][0-9,]*(?:\.[0-9]+)?)(?: ?(KiB|MiB|ms|s|min|h)\b)?`)

// tells reports whether text holds the quantity as an amount.
func tells(text string, q quantity) bool {
	scale := map[string]int64{
		"": 1, "KiB": 1 << 10, "MiB": 1 << 20,
		"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute), "h": int64(time.Hour),
	}
	for _, m := range amounts.FindAllStringSubmatch(text, -1) {
		n := constant.MakeFromLiteral(strings.NewReplacer(",", "", "−", "").Replace(m[1]), token.FLOAT, 0)
		if strings.HasPrefix(m[1], "−") {
			n = constant.UnaryOp(token.SUB, n, 0)
		}
		n = constant.BinaryOp(n, token.MUL, constant.MakeInt64(scale[m[2]]))
		isTime := m[2] != "" && !strings.HasSuffix(m[2], "B")
		if isTime == q.isTime && constant.Compare(n, token.EQL, q.number) {
			return true
		}
	}
	return false
}
