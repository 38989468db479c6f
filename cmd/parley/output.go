package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	yaml "go.yaml.in/yaml/v3"
)

// showValue is show for what the command made itself.
func (g *globals) showValue(v any, view func() *table) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("show %T: %w", v, err)
	}
	return g.show(body, func() (*table, error) { return view(), nil })
}

// list is the shape of every native list.
type list[T any] struct {
	Items      []T    `json:"items"`
	Count      int    `json:"count"`
	NextCursor string `json:"next_cursor"`
}

// show prints an answer of the API in the format that the user chose. view
// makes the table that people see.
func (g *globals) show(body []byte, view func() (*table, error)) error {
	format, arg, _ := strings.Cut(g.output, "=")
	if !slices.Contains([]string{"table", "wide", "csv"}, format) {
		var err error
		if body, err = g.arrange.items(body, view); err != nil {
			return err
		}
	}
	switch format {
	case "json":
		return writeLine(g.out, body)
	case "jsonl":
		return writeLines(g.out, body)
	case "yaml":
		return writeYAML(g.out, body)
	case "template":
		return writeTemplate(g.out, arg, body)
	}
	t, err := view()
	if err != nil {
		return err
	}
	if _, err := g.arrange.apply(t); err != nil {
		return err
	}
	if format == "csv" {
		return t.csv(g.out)
	}
	if len(t.rows) == 0 && t.empty != "" {
		g.say("%s", t.empty)
		return nil
	}
	return t.print(g.out, format == "wide")
}

// decode reads an answer of the API.
func decode[T any](body []byte) (v T, err error) {
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("read the node's answer: %w: is --node a parley node of this version?", err)
	}
	return v, nil
}

// ask shows the answer of GET path, again and again with --watch.
func ask[T any](ctx context.Context, g *globals, path string, view func(T) *table) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	return g.repeat(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, g.timeout)
		defer cancel()
		body, err := c.get(ctx, path)
		if err != nil {
			return err
		}
		return g.show(body, func() (*table, error) {
			v, err := decode[T](body)
			if err != nil {
				return nil, err
			}
			return view(v), nil
		})
	})
}

// repeat does show once, or with --watch until it fails or is interrupted.
func (g *globals) repeat(ctx context.Context, show func() error) error {
	if g.watch <= 0 {
		return show()
	}
	tick := time.NewTicker(g.watch)
	defer tick.Stop()
	for {
		if _, tty := terminal(g.out); tty && g.output != "json" && g.output != "jsonl" {
			fmt.Fprint(g.out, "\x1b[H\x1b[2J")
		}
		if err := show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errFollowed
		case <-tick.C:
		}
	}
}

func writeLine(w io.Writer, body []byte) error {
	_, err := w.Write(append(bytes.TrimRight(body, "\n"), '\n'))
	return err
}

// writeLines writes the items of a list a line each, and anything else on one.
func writeLines(w io.Writer, body []byte) error {
	var l list[json.RawMessage]
	if err := json.Unmarshal(body, &l); err != nil || l.Items == nil {
		l.Items = []json.RawMessage{body}
		var bare []json.RawMessage
		if json.Unmarshal(body, &bare) == nil {
			l.Items = bare
		}
	}
	for _, item := range l.Items {
		var line bytes.Buffer
		if err := json.Compact(&line, item); err != nil {
			return fmt.Errorf("read the node's answer: %w", err)
		}
		if err := writeLine(w, line.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// writeYAML keeps the order of the keys: JSON is YAML in another style.
func writeYAML(w io.Writer, body []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(body, &doc); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	var block func(n *yaml.Node)
	block = func(n *yaml.Node) {
		n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
		for _, c := range n.Content {
			block(c)
		}
	}
	block(&doc)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return err
	}
	return e.Close()
}

func writeTemplate(w io.Writer, text string, body []byte) error {
	t, err := template.New("-o template").Option("missingkey=error").Parse(text)
	if err != nil {
		return fail(exitUsage, "%w", err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // heights stay whole
	var v any
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	if err := t.Execute(w, v); err != nil {
		if keys, is := v.(map[string]any); is {
			return fail(exitUsage, "%w: the answer has %s", err, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		}
		return fail(exitUsage, "%w", err)
	}
	_, err = fmt.Fprintln(w)
	return err
}
