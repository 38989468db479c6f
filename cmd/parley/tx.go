package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Bounds of the API, known before a request is sent.
const (
	maxRequest = 128 << 10 // bytes of a record as JSON
	maxWait    = time.Minute
)

func txCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "tx", Short: "Records: write and read them",
		Example: "parley tx submit record.json\nparley tx load records.jsonl\nparley tx history 'pkg:deb/debian/bash@5.2.15-2'",
	}
	c.AddCommand(submitCommand(g), loadCommand(g), proveCommand(g, "prove"), verifyProofCommand(g, "verify"),
		&cobra.Command{Use: "get ID", Short: "One record", Args: cobra.ExactArgs(1), Example: "parley tx get 3a21…",
			RunE: func(c *cobra.Command, args []string) error {
				if err := checkID(args[0]); err != nil {
					return err
				}
				return ask(c.Context(), g, "records/"+args[0], viewRecord)
			}},
		&cobra.Command{Use: "history SUBJECT", Short: "All that is known of a subject, newest first", Args: cobra.ExactArgs(1),
			Example: "parley tx history 'pkg:deb/debian/bash@5.2.15-2'",
			RunE: func(c *cobra.Command, args []string) error {
				return ask(c.Context(), g, query("records", "subject", args[0], "limit", g.limitText()), func(l list[parley.Record]) *table {
					if l.NextCursor != "" {
						g.say("there are more: see them with --limit %d", min(2*len(l.Items), 1000))
					}
					t := viewRecords(l)
					t.empty = "nothing is known of " + args[0]
					return t
				})
			}},
	)
	return c
}

func submitCommand(g *globals) *cobra.Command {
	var subject, mediaType, ack string
	c := &cobra.Command{
		Use: "submit FILE|-", Short: "Write one record", Args: cobra.ExactArgs(1),
		Long: "Without --subject the file is a request: {\"subject\":\"…\",\"body\":{…}}. With it the file is the body of the record as it stands.\n" +
			"The node signs the record with its key, unless the request has the author's signature.",
		Example: "parley tx submit record.json\nparley tx submit --subject doc:42 report.pdf \\\n--media-type application/pdf",
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkAck(ack); err != nil {
				return usage(c, err)
			}
			if g.timeout <= 0 || g.timeout > maxWait {
				return usage(c, fmt.Errorf("--timeout %s: want more than 0, at most %s", g.timeout, maxWait))
			}
			request, err := g.request(args[0], subject, mediaType)
			if err != nil {
				return err
			}
			return g.submit(c.Context(), request, ack)
		},
	}
	c.Flags().StringVar(&subject, "subject", "", "what the record is about; the file is its body")
	c.Flags().StringVar(&mediaType, "media-type", "", "of the body (default: application/json if it is, else application/octet-stream)")
	ackFlag(c, &ack)
	return c
}

func ackFlag(c *cobra.Command, ack *string) {
	c.Flags().StringVar(ack, "ack", string(parley.Committed), "wait until it is committed, or only accepted: on the node's disk")
}

func checkAck(ack string) error {
	if ack != string(parley.Committed) && ack != string(parley.Accepted) {
		return fmt.Errorf("--ack %s: want committed or accepted", ack)
	}
	return nil
}

// checkID wants the whole hash: what tables show is its head.
func checkID(id string) error {
	if _, err := chain.ParseHash(id); err != nil {
		return fail(exitUsage, "record id %q: want 64 hex digits; tables shorten it, see parley tx history SUBJECT -o wide [PLY-002]", id)
	}
	return nil
}

// request makes the request of a file, which is one already where there is no
// subject.
func (g *globals) request(file, subject, mediaType string) ([]byte, error) {
	if subject == "" {
		b, err := g.readInput(file, maxRequest)
		if err == nil && !json.Valid(b) {
			err = fail(exitFailed, "%s is no JSON: want {\"subject\":\"…\",\"body\":{…}}; with --subject any file is a body [PLY-002]", inputName(file))
		}
		return b, err
	}
	body, err := g.readInput(file, consortium.MaxBody)
	if err != nil {
		return nil, err
	}
	return json.Marshal(draft(subject, mediaType, body))
}

// inputName is what a file is called in an error.
func inputName(file string) string {
	if file == "-" {
		return "stdin"
	}
	return file
}

// draft takes the body byte for byte, JSON too.
func draft(subject, mediaType string, body []byte) parley.Draft {
	if mediaType == "" {
		mediaType = "application/octet-stream"
		if json.Valid(body) {
			mediaType = jsonMedia
		}
	}
	return parley.Draft{Subject: subject, MediaType: mediaType, BodyBase64: body}
}

const jsonMedia = "application/json"

// openFile opens a file that the user names.
func openFile(name string) (*os.File, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &codeError{exitNotFound, fmt.Errorf("no file %s: name one that is there [PLY-006]", name)}
	}
	return f, err
}

// readInput reads a file of at most most bytes, or stdin for "-".
func (g *globals) readInput(name string, most int) ([]byte, error) {
	r := g.in
	if name != "-" {
		f, err := openFile(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > most {
		return nil, &codeError{exitFailed, fmt.Errorf("%s is longer than %d bytes, the most that one record may hold: split it, or store it elsewhere and record its hash [PLY-008]", name, most)}
	}
	return b, nil
}

func (g *globals) submit(ctx context.Context, request []byte, ack string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout+time.Second) // the node's own limit ends first
	defer cancel()
	body, err := c.do(ctx, http.MethodPost, query("records", "ack", ack, "timeout", g.timeout.String()), jsonMedia, request)
	if err != nil {
		return err
	}
	r, err := decode[parley.Record](body)
	if err != nil {
		return err
	}
	if r.Status == "pending" && ack == string(parley.Committed) {
		g.say("the record is accepted and not committed yet: ask for it with parley tx get %s", r.ID)
	}
	return g.show(body, func() (*table, error) {
		t := facts("id", r.ID.String(), "status", r.Status)
		if r.Height != nil {
			t.add("height", strconv.FormatUint(*r.Height, 10))
		}
		return t, nil
	})
}

func viewRecord(r parley.Record) *table {
	t := facts("id", r.ID.String(), "status", r.Status)
	if r.Reason != nil {
		t.add("reason", *r.Reason)
	}
	if r.Height != nil {
		t.add("height", fmt.Sprintf("%d, as number %d", *r.Height, index(r)))
	}
	t.add("subject", r.Subject)
	t.add("media type", r.MediaType)
	t.add("author", r.Author)
	t.add("nonce", strconv.FormatUint(r.Nonce, 10))
	t.add("body", bodyText(r))
	return t
}

func index(r parley.Record) uint32 {
	if r.Index == nil {
		return 0
	}
	return *r.Index
}

func viewRecords(l list[parley.Record]) *table {
	t := &table{columns: []column{{name: "HEIGHT", right: true}, {name: "ID"}, {name: "AUTHOR"}, {name: "SUBJECT", wide: true}, {name: "FULL ID", wide: true}, {name: "BODY", cut: true}}}
	for _, r := range l.Items {
		height := r.Status
		if r.Height != nil {
			height = strconv.FormatUint(*r.Height, 10)
		}
		t.add(height, head(r.ID.String()), head(r.Author), r.Subject, r.ID.String(), bodyText(r))
	}
	return t
}

// bodyText is the body on one line.
func bodyText(r parley.Record) string {
	var b bytes.Buffer
	if r.Body != nil && json.Compact(&b, r.Body) == nil {
		return b.String()
	}
	return fmt.Sprintf("%s of %s", size(len(r.BodyBase64)), r.MediaType)
}
