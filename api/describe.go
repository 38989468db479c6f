package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// form is what a route that is served by hand takes and gives, for the document.
type form struct {
	query  []*huma.Param
	takes  []string     // media types of its body
	gives  string       // media type of the answer
	answer reflect.Type // of an answer that is JSON
	status int          // 0 = 200
}

func param(name, kind, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: kind}}
}

var pathPart = regexp.MustCompile(`\{(\w+)\}`)

// describe puts the form into an operation.
func (s *Server) describe(op *huma.Operation, r route, f form) {
	op.Method, op.Path, op.Security = r.method, r.pattern, security(r.access)
	for _, m := range pathPart.FindAllStringSubmatch(r.pattern, -1) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	op.Parameters = append(op.Parameters, f.query...)
	if len(f.takes) > 0 {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
		for _, t := range f.takes {
			op.RequestBody.Content[t] = &huma.MediaType{}
		}
	}
	schemas := s.huma.OpenAPI().Components.Schemas
	status := cmp.Or(f.status, http.StatusOK)
	good := &huma.Response{Description: http.StatusText(status)}
	if f.gives != "" {
		media := &huma.MediaType{}
		if f.answer != nil {
			media.Schema = schemas.Schema(f.answer, true, "")
		}
		good.Content = map[string]*huma.MediaType{f.gives: media}
	}
	op.Responses = map[string]*huma.Response{strconv.Itoa(status): good, "default": {
		Description: "Error",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schemas.Schema(reflect.TypeFor[problem](), true, "")}},
	}}
}

// security of an access: what is read needs a token only where api.public_read
// is off.
func security(a access) []map[string][]string {
	token := map[string][]string{"token": {}}
	switch a {
	case open:
		return nil
	case read:
		return []map[string][]string{{}, token}
	}
	return []map[string][]string{token}
}

func created(op *huma.Operation) { op.DefaultStatus = http.StatusCreated }

// also adds statuses with which an operation succeeds beside its first one.
func also(statuses ...int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.Metadata[alsoKey] = statuses }
}

// describeAlso copies the answer of an operation to its other statuses.
func describeAlso(responses map[string]*huma.Response, statuses []int) {
	var first *huma.Response
	for status, r := range responses {
		if status != "default" {
			first = r
		}
	}
	for _, status := range statuses {
		r := *first
		r.Description = http.StatusText(status)
		if status == http.StatusNoContent || status == http.StatusNotModified {
			r.Content = nil
		}
		responses[strconv.Itoa(status)] = &r
	}
}

// describeNull lets each pointer be null that stands in every answer: of objects
// and types that describe themselves huma says nothing of the kind.
func (s *Server) describeNull() {
	schemas := s.huma.OpenAPI().Components.Schemas
	for name, schema := range schemas.Map() {
		t := schemas.TypeFromRef("#/components/schemas/" + name)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for _, f := range reflect.VisibleFields(t) {
			key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			p := schema.Properties[key]
			switch {
			case p == nil || f.Type.Kind() != reflect.Pointer || strings.Contains(options, "omit"):
			case p.Ref != "":
				schema.Properties[key] = &huma.Schema{AnyOf: []*huma.Schema{{Ref: p.Ref}, {Type: typeNull}}}
			default:
				p.Nullable = true
			}
		}
	}
}

const typeNull = "null"

// downgrade is the document for tools of OpenAPI 3.0, which has no type null.
func (s *Server) downgrade() ([]byte, error) {
	b, err := s.huma.OpenAPI().Downgrade()
	if err != nil {
		return nil, err
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	nullable(doc)
	return json.Marshal(doc)
}

func nullable(v any) {
	switch v := v.(type) {
	case map[string]any:
		if either, ok := v["anyOf"].([]any); ok && len(either) == 2 && reflect.DeepEqual(either[1], map[string]any{"type": typeNull}) {
			delete(v, "anyOf")
			v["allOf"], v["nullable"] = either[:1], true
		}
		for _, e := range v {
			nullable(e)
		}
	case []any:
		for _, e := range v {
			nullable(e)
		}
	}
}
