package api

import (
	"bytes"
	"fmt"
	"mime"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/parley-p2p/parley"
)

// document is what the API says of itself.
type document struct {
	paths   map[string]any
	schemas *jsonschema.Compiler
}

func documentOf(t *testing.T, s *Server) document {
	t.Helper()
	body := call(s, parley.Listener{}, stranger, "GET", "/openapi.json", "").body
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("doc", doc); err != nil {
		t.Fatal(err)
	}
	return document{doc.(map[string]any)["paths"].(map[string]any), c}
}

func (d document) operation(pattern string) map[string]any {
	method, path, _ := strings.Cut(pattern, " ")
	item, _ := d.paths[path].(map[string]any)
	op, _ := item[strings.ToLower(method)].(map[string]any)
	return op
}

// fault tells what an answer has that the document does not tell of, nil = nothing.
func (d document) fault(pattern string, got reply) error {
	responses, _ := d.operation(pattern)["responses"].(map[string]any)
	status := strconv.Itoa(got.status)
	if responses[status] == nil && got.status >= 400 {
		status = "default"
	}
	response, _ := responses[status].(map[string]any)
	if response == nil {
		return fmt.Errorf("status %d is not told of", got.status)
	}
	content, _ := response["content"].(map[string]any)
	mediaType, _, _ := mime.ParseMediaType(got.header.Get("Content-Type"))
	if len(got.body) == 0 && len(content) == 0 {
		return nil
	}
	media, told := content[mediaType].(map[string]any)
	if !told {
		return fmt.Errorf("status %d: content %q is not told of", got.status, mediaType)
	}
	if media["schema"] == nil {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(got.body))
	if err != nil {
		return err
	}
	method, path, _ := strings.Cut(pattern, " ")
	at := "doc#"
	for _, part := range []string{"paths", path, strings.ToLower(method), "responses", status, "content", mediaType, "schema"} {
		at += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(part)
	}
	schema, err := d.schemas.Compile(at)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// parameters are what some routes that are served by hand read of their address.
var parameters = map[string][]string{
	"GET /api/v1/events": {"types", "since", "token", "Last-Event-ID"}, "GET /api/v1/ws": {"types", "since", "token"},
	"GET /api/v1/logs": {"last", "token"}, "GET /api/v1/backup": {"with_keys"},
}

// TestOpenAPI: the document has each native route, with all that its path names.
func TestOpenAPI(t *testing.T) {
	s := idleServer(t, nil)
	d := documentOf(t, s)
	for _, pattern := range s.patterns() {
		if !strings.Contains(pattern, " "+prefix) {
			continue
		}
		op := d.operation(pattern)
		if op["responses"] == nil || op["summary"] == nil {
			t.Errorf("the document tells of %s: %v", pattern, op)
		}
		told, want := fmt.Sprint(op["parameters"]), parameters[pattern]
		for _, m := range pathPart.FindAllStringSubmatch(pattern, -1) {
			want = append(want, m[1])
		}
		for _, name := range want {
			if !strings.Contains(told, " name:"+name+" ") {
				t.Errorf("%s has no parameter %s: %s", pattern, name, told)
			}
		}
		if rt := s.routes[pattern]; (op["security"] == nil) != (rt.access == open) {
			t.Errorf("%s: security %v", pattern, op["security"])
		}
	}
	doc := call(s, parley.Listener{}, stranger, "GET", "/openapi.json", "").json(t)
	if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		t.Errorf("openapi %v", doc["openapi"])
	}
	old := string(call(s, parley.Listener{}, stranger, "GET", "/openapi-3.0.json", "").body)
	if strings.Contains(old, `"null"`) || !strings.Contains(old, `"nullable":true`) {
		t.Error("the document of OpenAPI 3.0 has a type null, which is of 3.1")
	}
	for _, path := range []string{"/openapi.yaml", "/openapi-3.0.json"} {
		if got := call(s, parley.Listener{}, stranger, "GET", path, ""); got.status != 200 || !strings.Contains(string(got.body), "/api/v1/status") {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}
