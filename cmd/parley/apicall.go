package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func apiCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "api", Short: "Any route of the API", Example: "parley api call GET status"}
	c.AddCommand(&cobra.Command{
		Use: "call METHOD PATH [BODY]", Short: "Call a route and print its answer as it is", Args: cobra.RangeArgs(2, 3),
		Long:    "PATH without a leading / is one of /api/v1/. BODY is JSON, @FILE or - for stdin.",
		Example: "parley api call GET status\nparley api call GET /api/peers\nparley api call POST records @record.json",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), g.timeout)
			defer cancel()
			return g.call(ctx, strings.ToUpper(args[0]), args[1], args[2:])
		},
	}, &cobra.Command{
		Use: "openapi", Short: "The OpenAPI document of the node that is asked", Args: cobra.NoArgs,
		Example: "parley api openapi > openapi.json",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), g.timeout)
			defer cancel()
			return g.call(ctx, http.MethodGet, "/openapi.json", nil)
		},
	})
	return c
}

func (g *globals) call(ctx context.Context, method, path string, rest []string) error {
	var body io.Reader
	contentType := ""
	if len(rest) == 1 {
		contentType = jsonMedia
		switch name, isFile := strings.CutPrefix(rest[0], "@"); {
		case rest[0] == "-":
			body = g.in
		case isFile:
			b, err := g.readInput(name, maxRequest)
			if err != nil {
				return err
			}
			body = strings.NewReader(string(b))
		default:
			body = strings.NewReader(rest[0])
		}
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	res, err := c.request(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	last := &lastByte{w: g.out}
	if _, err := io.Copy(last, res.Body); err != nil {
		return c.unreachable(ctx, err)
	}
	if last.b != '\n' && last.b != 0 {
		_, err = fmt.Fprintln(g.out)
	}
	return err
}

// lastByte remembers how the output ended.
type lastByte struct {
	w io.Writer
	b byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return l.w.Write(p)
}
