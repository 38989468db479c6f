package api

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// fits fills in the defaults of what a native route asks for, and holds it
// to the limits that stand in the tags of its fields. Of requests over HTTP huma
// does that; a remote call asks for the same in a message of its own, in which
// zero is what was left out.
func fits(in any) error {
	b := bounds{}
	b.fields(reflect.ValueOf(in).Elem(), "")
	if len(b.faults) == 0 {
		return nil
	}
	p := invalid.problem("")
	p.Errors = b.faults
	p.Detail = firstFault(b.faults)
	return p
}

type bounds struct{ faults []*huma.ErrorDetail }

func (b *bounds) fields(v reflect.Value, place string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch {
		case !f.IsExported():
		case f.Anonymous:
			b.fields(v.Field(i), place)
		case f.Name == "Body" && place == "":
			if v.Field(i).Kind() == reflect.Struct {
				b.fields(v.Field(i), "body.")
			}
		default:
			b.field(f, v.Field(i), place)
		}
	}
}

// nameOf is the name of a field in a request, and whether it may be left out.
func nameOf(f reflect.StructField) (name string, optional bool) {
	for _, in := range []string{"query", "path", "json"} {
		if tag, ok := f.Tag.Lookup(in); ok {
			name, options, _ := strings.Cut(tag, ",")
			optional = in == "query" && f.Tag.Get("required") != "true" || strings.Contains(options, "omitempty")
			return name, optional
		}
	}
	return f.Name, true
}

func (b *bounds) field(f reflect.StructField, v reflect.Value, place string) {
	name, optional := nameOf(f)
	wrong := func(want string) {
		b.faults = append(b.faults, bounded(&huma.ErrorDetail{Location: place + name, Message: want, Value: v.Interface()}))
	}
	preset(f, v)
	if v.IsZero() && optional {
		return
	}
	switch v.Kind() {
	case reflect.String:
		b.text(f, v.String(), wrong)
	case reflect.Int:
		if least, ok := limitOf(f, "minimum"); ok && v.Int() < least {
			wrong(fmt.Sprintf("want at least %d", least))
		}
		if most, ok := limitOf(f, "maximum"); ok && v.Int() > most {
			wrong(fmt.Sprintf("want at most %d", most))
		}
	}
}

func preset(f reflect.StructField, v reflect.Value) {
	text, ok := f.Tag.Lookup("default")
	if !ok || !v.IsZero() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		n, _ := strconv.ParseInt(text, 10, 64) // huma has read it too
		v.SetInt(n)
	}
}

func (b *bounds) text(f reflect.StructField, s string, wrong func(string)) {
	n := int64(utf8.RuneCountInString(s))
	if enum := f.Tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), s) {
		wrong("want one of " + strings.ReplaceAll(enum, ",", ", "))
	}
	if least, ok := limitOf(f, "minLength"); ok && n < least {
		wrong(fmt.Sprintf("want at least %d characters", least))
	}
	if most, ok := limitOf(f, "maxLength"); ok && n > most {
		wrong(fmt.Sprintf("want at most %d characters", most))
	}
	if p := f.Tag.Get("pattern"); p != "" && !patternOf(p).MatchString(s) {
		wrong("want what fits " + p)
	}
}

func limitOf(f reflect.StructField, tag string) (int64, bool) {
	n, err := strconv.ParseInt(f.Tag.Get(tag), 10, 64)
	return n, err == nil
}

var patterns sync.Map // of the tags, by their text: *regexp.Regexp

func patternOf(text string) *regexp.Regexp {
	if p, ok := patterns.Load(text); ok {
		return p.(*regexp.Regexp)
	}
	p, _ := patterns.LoadOrStore(text, regexp.MustCompile(text))
	return p.(*regexp.Regexp)
}
