package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func logsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "logs", Short: "The log of a running node: follow it, change what it tells",
		Example: "parley logs tail\nparley logs level p2p.gossip=debug"}
	var last uint16
	tail := &cobra.Command{
		Use: "tail", Short: "Follow the log; Ctrl-C ends", Args: cobra.NoArgs,
		Long:    "Shows the newest lines, and those that are written while it runs. What is let through is the node's own matter: see parley logs level.",
		Example: "parley logs tail\nparley logs tail --last 100\nparley logs tail --json | jq 'select(.room==\"p2p.gossip\")'",
		RunE:    func(c *cobra.Command, _ []string) error { return g.tailLog(c.Context(), last) },
	}
	tail.Flags().Uint16Var(&last, "last", 10, "so many lines of before first, at most 2000")
	level := &cobra.Command{
		Use: "level [ROOM=LEVEL…]", Short: "What each room logs; with arguments, change it until the node starts again",
		Long: "A level is debug, info, warn or error. One without a room is for all rooms that have none of their own; a room with the level\n" +
			"default gets that one back. p2p stands for p2p.gossip too. log.level in the configuration says what holds after a start.",
		Example: "parley logs level\nparley logs level p2p.gossip=debug replica=warn\nparley logs level info\nparley logs level p2p.gossip=default",
		RunE:    func(c *cobra.Command, args []string) error { return g.logLevels(c.Context(), args) },
	}
	c.AddCommand(tail, level)
	return c
}

const logLevelsPath = apiPrefix + "log-levels"

// logLevels shows the levels, after the changes that args name.
func (g *globals) logLevels(ctx context.Context, args []string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := c.get(ctx, logLevelsPath)
	if err != nil {
		return err
	}
	levels, err := decode[map[string]string](body)
	if err != nil {
		return err
	}
	for _, arg := range args {
		room, level, named := strings.Cut(arg, "=")
		switch {
		case !named:
			levels["default"] = arg
		case level == "default":
			delete(levels, room)
		default:
			levels[room] = level
		}
	}
	if len(args) > 0 {
		next, err := json.Marshal(levels)
		if err != nil {
			return err
		}
		if body, err = c.do(ctx, http.MethodPut, logLevelsPath, "application/json", next); err != nil {
			return err
		}
	}
	return g.show(body, func() (*table, error) {
		levels, err := decode[map[string]string](body)
		if err != nil {
			return nil, err
		}
		t := &table{columns: []column{{name: "ROOM"}, {name: "LEVEL"}}}
		for _, room := range slices.Sorted(maps.Keys(levels)) {
			t.add(room, levels[room])
		}
		return t, nil
	})
}

// tailLog shows the log until the node or the user ends it, or --limit lines.
func (g *globals) tailLog(ctx context.Context, last uint16) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	res, err := c.request(ctx, http.MethodGet, apiPrefix+"logs?last="+strconv.Itoa(int(last)), "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	kind := ""
	for shown := 0; (g.limit == 0 || shown < g.limit) && lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kind = name
			continue
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if kind == "lagged" {
			g.say("lines were lost, because this reader is slower than the log: %s", data)
			continue
		}
		shown++
		if err := g.showLine([]byte(data)); err != nil {
			return err
		}
	}
	if g.limit > 0 {
		return nil
	}
	if ctx.Err() != nil {
		return errFollowed
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return c.unreachable(ctx, fmt.Errorf("the log ended: %w", err))
}

// showLine shows one line of a log: time, level, message, and the rest in its
// order.
func (g *globals) showLine(line []byte) error {
	if g.output != "table" && g.output != "wide" {
		return writeLine(g.out, line)
	}
	head, err := decode[struct {
		Time  time.Time `json:"time"`
		Level string    `json:"level"`
		Msg   string    `json:"msg"`
	}](line)
	if err != nil {
		return err
	}
	rest := eventWords(line, "time", "level", "msg")
	_, err = fmt.Fprintf(g.out, "%s %-5s %s %s\n", head.Time.Local().Format(time.TimeOnly+".000"), head.Level, head.Msg, rest)
	return err
}
