package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/config"
)

const (
	maxBundle     = 256 << 20 // bytes of a bundle, and of what one of its files unpacks to
	bundlePath    = apiPrefix + "debug/bundle"
	stacksInside  = "goroutines.txt"
	bundleAnswers = ".json"
	bundleRefusal = ".error"
)

func debugCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "debug", Short: "What helps to find a fault in a node", Example: "parley debug bundle\nparley status --bundle parley-node1.zip\nparley debug goroutines"}
	var out string
	bundle := &cobra.Command{
		Use: "bundle", Short: "Write a support archive of a running node", Args: cobra.NoArgs,
		Long: "The zip holds what the API answers to its questions, metrics, the newest lines of the log, all stacks and memory by who took it.\n" +
			"Keys, tokens and passwords are left out; addresses, peer ids and names are not. Commands that list or show what is there take\n" +
			"--bundle FILE and show what the node would have answered: status, peers list, bans list, chain status, chain validators list.\n" +
			"Questions with an argument or a filter, and what comes after the first 1,000 of a list, are not in it.",
		Example: "parley debug bundle\nparley debug bundle --out /tmp/node1.zip\nparley peers list --bundle /tmp/node1.zip",
		RunE:    func(c *cobra.Command, _ []string) error { return g.saveBundle(c.Context(), out) },
	}
	bundle.Flags().StringVar(&out, "out", "", "file to write; it must not exist (default: parley-NAME-TIME.zip here)")
	stacks := &cobra.Command{
		Use: "goroutines", Short: "All stacks of a running node", Args: cobra.NoArgs, Example: "parley debug goroutines | less",
		RunE: func(c *cobra.Command, _ []string) error { return g.showStacks(c.Context()) },
	}
	c.AddCommand(bundle, stacks, pprofCommand(g))
	return c
}

// fetchBundle asks for a bundle and looks whether all of it came.
func (g *globals) fetchBundle(ctx context.Context) ([]byte, *zip.Reader, error) {
	c, err := g.client()
	if err != nil {
		return nil, nil, err
	}
	b, err := c.do(ctx, http.MethodGet, bundlePath, "", nil)
	if err != nil {
		return nil, nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, nil, fmt.Errorf("the bundle is not whole: %w: ask again, and see the node's log", err)
	}
	return b, z, nil
}

func (g *globals) saveBundle(ctx context.Context, out string) error {
	b, z, err := g.fetchBundle(ctx)
	if err != nil {
		return err
	}
	if out == "" {
		out = fmt.Sprintf("parley-%s-%s.zip", bundleName(z), time.Now().UTC().Format("20060102T150405Z"))
	}
	if err := createFile(out, b, 0o600); err != nil {
		return err
	}
	g.say("%s, without secrets, but with addresses and peer ids: look at it with parley status --bundle %s", humanize.IBytes(uint64(len(b))), out)
	_, err = fmt.Fprintln(g.out, out)
	return err
}

// bundleName is the name of the bundle's node, fit for a file.
func bundleName(z *zip.Reader) string {
	b, err := readBundled(z, strings.Trim(apiPrefix, "/")+"/status"+bundleAnswers)
	if err == nil {
		if s, err := decode[struct {
			Name string `json:"name"`
		}](b); err == nil && s.Name != "" {
			return strings.Map(func(r rune) rune {
				if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r) {
					return r
				}
				return '_'
			}, s.Name)
		}
	}
	return "node"
}

func (g *globals) showStacks(ctx context.Context) error {
	_, z, err := g.fetchBundle(ctx)
	if err != nil {
		return err
	}
	b, err := readBundled(z, stacksInside)
	if err != nil {
		return err
	}
	_, err = g.out.Write(b)
	return err
}

// readBundled reads one file of a bundle, whatever its head says of its length.
func readBundled(z *zip.Reader, name string) ([]byte, error) {
	f, err := z.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(b) > maxBundle {
		err = fmt.Errorf("%s unpacks to more than %s", name, humanize.IBytes(maxBundle))
	}
	return b, err
}

// bundleClient answers out of a bundle instead of asking a node.
func bundleClient(file string) (*client, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w: make one with parley debug bundle", file, err)
	}
	return &client{name: file, base: "http://bundle", http: &http.Client{Transport: bundled{file, &z.Reader}}}, nil // open until the command ends
}

type bundled struct {
	file string
	zip  *zip.Reader
}

func (b bundled) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close() // it was not read
	}
	if r.Method != http.MethodGet {
		return b.answer(r, http.StatusBadRequest, `{"title":"Bad request","detail":"a bundle can only be read: name a node for what changes one"}`), nil
	}
	for key, values := range r.URL.Query() {
		asIs := key == "limit" || key == "order" || key == "state" && values[0] == "connected" // as the bundle has it
		if !asIs {
			return b.answer(r, http.StatusBadRequest, fmt.Sprintf(`{"title":"Bad request","detail":"a bundle holds answers without filters, and knows no %s: leave it out"}`, key)), nil
		}
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	body, err := readBundled(b.zip, name+bundleAnswers)
	if err == nil {
		return b.answer(r, http.StatusOK, string(body)), nil
	}
	if body, err = readBundled(b.zip, name+bundleRefusal); err == nil {
		return b.answer(r, http.StatusServiceUnavailable, string(body)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return b.answer(r, http.StatusNotFound, fmt.Sprintf(`{"title":"Not found","detail":"the bundle %s holds no answer to GET %s"}`, filepath.Base(b.file), r.URL.Path)), nil
}

func (b bundled) answer(r *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

func pprofCommand(g *globals) *cobra.Command {
	var out string
	var seconds int
	c := &cobra.Command{
		Use: "pprof [KIND]", Short: "Save a profile of a node of this machine, by its ops port", Args: cobra.MaximumNArgs(1),
		Long: "KIND is cpu, heap, allocs, goroutine, block or mutex. The node must run with ops.pprof = true. Look at the file with: go tool pprof FILE", Example: "parley debug pprof cpu --seconds 10",
		RunE: func(c *cobra.Command, args []string) error {
			kind := "cpu"
			if len(args) > 0 {
				kind = args[0]
			}
			return g.saveProfile(c.Context(), kind, seconds, out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write; it must not exist (default: KIND.pprof here)")
	c.Flags().IntVar(&seconds, "seconds", 10, "of a CPU profile")
	return c
}

func (g *globals) saveProfile(ctx context.Context, kind string, seconds int, out string) error {
	if seconds < 1 || seconds > 600 {
		return fail(exitUsage, "--seconds %d: want 1 to 600", seconds)
	}
	ops, err := g.opsListener(ctx)
	if err != nil {
		return err
	}
	path := "/debug/pprof/" + kind
	if kind == "cpu" {
		path = fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds)
	}
	c := &client{name: ops, base: ops, http: &http.Client{Timeout: time.Duration(seconds)*time.Second + g.timeout}}
	b, err := c.do(ctx, http.MethodGet, path, "", nil)
	var refused *apiError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return fail(exitNotFound, "%s serves no profile %s: run the node with ops.pprof = true, and name one of cpu, heap, allocs, goroutine, block, mutex", c.name, kind)
	}
	if err != nil {
		return err
	}
	if out == "" {
		out = kind + ".pprof"
	}
	if err := createFile(out, b, 0o600); err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.out, out)
	return err
}

// opsListener asks the node where its ops port is.
func (g *globals) opsListener(ctx context.Context) (string, error) {
	c, err := g.client()
	if err != nil {
		return "", err
	}
	body, err := c.get(ctx, "config")
	if err != nil {
		return "", err
	}
	l, err := decode[list[config.Value]](body)
	if err != nil {
		return "", err
	}
	for _, v := range l.Items {
		if v.Key == "ops.listen" && v.Value != "" {
			return "http://" + v.Value, nil
		}
	}
	return "", fail(exitRefused, "ops.listen is empty, and profiles are served there alone: set it, and ops.pprof = true, and start the node again")
}
