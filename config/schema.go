package config

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Forms of text in files, as the readers of types.go take them.
const (
	durationForm = `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
	sizeForm     = `^[0-9]+ *(B|KiB|MiB|GiB|TiB)?$`
	rateForm     = `^[0-9]+/s$`
)

// Schema describes a configuration file as JSON Schema (2020-12), for editors. It
// has every key with its type, bounds, default and meaning; what a key says beyond
// that only Load judges. Secrets are missing: no file may hold one.
func Schema() ([]byte, error) {
	root := object("parley's configuration")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	for i, key := range Keys() {
		if key.Type == "secret" {
			continue
		}
		at := root
		parts := strings.Split(key.Name, ".")
		for _, section := range parts[:len(parts)-1] {
			properties := at["properties"].(map[string]any)
			if properties[section] == nil {
				properties[section] = object("")
			}
			at = properties[section].(map[string]any)
		}
		of := knobs[i].schema()
		of["description"] = key.Help
		if key.Type != "tables" { // there are none
			value, err := Parse(key.Name, key.Default)
			if err != nil {
				return nil, err
			}
			if key.Type == "list" && key.Default == "" {
				value = []string{}
			}
			of["default"] = value
		}
		at["properties"].(map[string]any)[parts[len(parts)-1]] = of
	}
	return json.MarshalIndent(root, "", "  ")
}

func object(about string) map[string]any {
	o := map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
	if about != "" {
		o["title"] = about
	}
	return o
}

// schema is that of one key's value.
func (k knob) schema() map[string]any {
	if k.oneOf != nil {
		return map[string]any{"enum": k.oneOf}
	}
	return schemaOf(k.at(new(Config)), k.low, k.high)
}

func schemaOf(field any, low, high int64) map[string]any {
	text := func(form string) map[string]any { return map[string]any{"type": "string", "pattern": form} }
	whole := map[string]any{"type": "integer"}
	if high > 0 {
		whole["minimum"], whole["maximum"] = low, high
	}
	switch field.(type) {
	case *bool:
		return map[string]any{"type": "boolean"}
	case *int:
		return whole
	case *float64:
		return map[string]any{"type": "number"}
	case *[]string:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case *SidecarTopics:
		topic := object("")
		topic["properties"] = map[string]any{"name": map[string]any{"type": "string"}, "max": sizeOrBytes(1, math.MaxInt64), "validate": map[string]any{"type": "boolean"}}
		topic["required"] = []string{"name"}
		return map[string]any{"type": "array", "items": map[string]any{"anyOf": []any{map[string]any{"type": "string"}, topic}}}
	case *[]Sink:
		sink := object("")
		for _, f := range sinkFields {
			sink["properties"].(map[string]any)[f.name] = schemaOf(f.at(new(Sink)), 0, 0)
		}
		sink["properties"].(map[string]any)["kind"] = map[string]any{"enum": []string{SinkNATS, SinkKafka}}
		sink["required"] = []string{"kind", "url"}
		return map[string]any{"type": "array", "items": sink, "maxItems": maxSinks}
	case *time.Duration:
		return text(durationForm)
	case *Size:
		return sizeOrBytes(low, high)
	case *Rate:
		return text(rateForm)
	}
	return map[string]any{"type": "string"}
}

// sizeOrBytes is text with a unit, or a number of bytes.
func sizeOrBytes(low, high int64) map[string]any {
	bytes := map[string]any{"type": "integer"}
	if high > 0 {
		bytes["minimum"], bytes["maximum"] = low, json.Number(strconv.FormatInt(high, 10))
	}
	return map[string]any{"anyOf": []any{bytes, map[string]any{"type": "string", "pattern": sizeForm}}}
}
