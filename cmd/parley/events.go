package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"
)

const maxEvent = 16 << 20 // bytes; the snapshot of the first message is the longest

func eventsCommand(g *globals) *cobra.Command {
	var types string
	var after uint64
	c := &cobra.Command{
		Use: "events", Short: "What happens, as it happens: one JSON a line", Args: cobra.NoArgs,
		Example: "parley events\nparley events --types 'peer.*,block.stored'\nparley events --since 1882367144759911",
		RunE: func(c *cobra.Command, _ []string) error {
			if g.output == "table" {
				g.output = "jsonl"
			}
			return g.stream(c.Context(), types, after)
		},
	}
	c.Flags().StringVar(&types, "types", "", "only these, by comma, * for any part (default: all but logs and samples)")
	c.Flags().Uint64Var(&after, "since", 0, "go on after the event of this number")
	return c
}

// envelope is one message of the event stream.
type envelope struct {
	Seq  uint64          `json:"seq"`
	TS   time.Time       `json:"ts"`
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// stream shows events until the node or the user ends it, or --limit of them.
func (g *globals) stream(ctx context.Context, types string, after uint64) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	since := ""
	if after > 0 {
		since = strconv.FormatUint(after, 10)
	}
	conn, err := c.events(ctx, g.timeout, query(apiPrefix+"ws", "types", types, "since", since))
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for shown := 0; g.limit == 0 || shown < g.limit; {
		_, message, err := conn.Read(ctx)
		if ctx.Err() != nil {
			return errFollowed
		}
		if err != nil {
			return c.unreachable(ctx, fmt.Errorf("the event stream ended: %w", err))
		}
		e, err := decode[envelope](message)
		if err != nil {
			return err
		}
		if e.Type == "hello" { // its snapshot is for dashboards
			hello, err := decode[struct {
				Seq     uint64   `json:"seq"`
				Resumed bool     `json:"resumed"`
				Denied  []string `json:"denied_types"`
			}](e.Data)
			if err != nil {
				return err
			}
			if len(hello.Denied) > 0 {
				g.say("%s needs a token of scope admin (--token-file FILE), or the node's local socket: none comes", strings.Join(hello.Denied, ","))
			}
			g.say("%s; Ctrl-C ends", followed(after, hello.Seq, hello.Resumed))
		}
		if e.Type == "unknown_types" {
			no, err := decode[struct {
				Types []string `json:"types"`
			}](e.Data)
			if err != nil {
				return err
			}
			g.say("the node knows no type of event that is %s: it is misspelt, or of a newer version", strings.Join(no.Types, ", "))
			continue
		}
		if e.Type == "" || e.Type == "hello" {
			continue
		}
		shown++
		if err := g.showEvent(message, e); err != nil {
			return err
		}
	}
	return nil
}

// followed says what a stream begins with: after is what was asked for, 0 =
// nothing, and now the newest event.
func followed(after, now uint64, resumed bool) string {
	switch {
	case after == 0:
		return fmt.Sprintf("following what comes after event %d", now)
	case resumed:
		return fmt.Sprintf("going on after event %d: first what was missed, up to event %d, then what comes", after, now)
	case after > now:
		return fmt.Sprintf("event %d is not known, the newest is %d: following what comes after that", after, now)
	}
	return fmt.Sprintf("event %d is no longer held: what came after it, up to event %d, is lost and not shown; following what comes after that", after, now)
}

func (c *client) events(ctx context.Context, timeout time.Duration, path string) (*websocket.Conn, error) {
	dial, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	header := http.Header{}
	if c.token != "" {
		header.Set("Authorization", "Bearer "+c.token)
	}
	conn, res, err := websocket.Dial(dial, "ws"+strings.TrimPrefix(c.base, "http")+path, &websocket.DialOptions{
		HTTPClient: c.http, HTTPHeader: header, Subprotocols: []string{"parley.v1"},
	})
	if err == nil {
		conn.SetReadLimit(maxEvent)
		return conn, nil
	}
	if res != nil && res.StatusCode >= http.StatusBadRequest && res.Body != nil {
		defer res.Body.Close()
		return nil, refusal(res)
	}
	return nil, c.unreachable(ctx, err)
}

func (g *globals) showEvent(message []byte, e envelope) error {
	if g.output != "table" && g.output != "wide" {
		return g.show(message, func() (*table, error) { return facts(e.Type, string(e.Data)), nil })
	}
	_, err := fmt.Fprintf(g.out, "%s  %-22s %s\n", e.TS.Local().Format(time.TimeOnly), e.Type, eventWords(e.Data))
	return err
}

// eventWords shows an event's data as key=value pairs in their order, without
// those whose keys are left out.
func eventWords(data json.RawMessage, without ...any) string {
	d := json.NewDecoder(strings.NewReader(string(data)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return string(data)
	}
	var words []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			break
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			break
		}
		text := string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil {
			text = s
		}
		if text != "" && text != "null" && !slices.Contains(without, any(key)) {
			words = append(words, fmt.Sprintf("%v=%s", key, text))
		}
	}
	return strings.Map(printable, strings.Join(words, " "))
}
