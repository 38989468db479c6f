package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

const maxNamed = 10 // peers that are named before a ban cuts them off

// banFlags are how a ban is made.
type banFlags struct {
	duration                     time.Duration
	until                        string
	forever, force, dryRun, sure bool
	reason, note                 string
}

func bansCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "bans", Short: "Who is refused: peers, addresses and ranges",
		Example: "parley bans list\nparley bans add 203.0.113.0/24 --for 48h --note scanner\nparley bans check 203.0.113.7\nparley bans remove 203.0.113.0/24",
	}
	c.AddCommand(bansList(g), bansAdd(g),
		&cobra.Command{
			Use: "check T", Short: "Is a peer or an address banned, and by which ban? Exit code 1 = no", Args: oneTarget,
			Long:    targetHelp,
			Example: "parley bans check 203.0.113.7 && echo banned",
			RunE:    func(c *cobra.Command, args []string) error { return g.checkBan(c.Context(), args[0]) },
		},
		&cobra.Command{
			Use: "remove T", Short: "Lift a ban; who it was may connect at once, its points are gone", Args: oneTarget,
			Long:    targetHelp + " The ban is named as parley bans list shows it.",
			Example: "parley bans remove 203.0.113.0/24",
			RunE: func(c *cobra.Command, args []string) error {
				return changePeer(c.Context(), g, http.MethodDelete, "bans/"+url.PathEscape(args[0]), nil, func(none) *table {
					return facts("no longer banned", args[0])
				})
			},
		},
		bansClear(g), bansImport(g),
		&cobra.Command{
			Use: "export", Short: "Write the bans as JSON lines", Args: cobra.NoArgs,
			Example: "parley bans export > bans.jsonl",
			RunE:    func(c *cobra.Command, _ []string) error { return g.export(c.Context(), "bans/export") },
		},
	)
	return c
}

const targetHelp = "T is a peer ID, the end of one as lists show it, an IP address or a CIDR; parley peers show tells the peer ID and the address of a peer that you know by its name."

// oneTarget wants one target and says what that is.
func oneTarget(_ *cobra.Command, args []string) error {
	if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
		return fmt.Errorf("want T, a peer ID, an IP address or a CIDR, as parley bans list shows them; have %q", strings.Join(args, " "))
	}
	return nil
}

// none is an answer without a body.
type none struct{}

func bansList(g *globals) *cobra.Command {
	var kind, origin string
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "The bans that hold, newest first", Args: cobra.NoArgs,
		Example: "parley bans list\nparley bans list --origin auto\nparley bans list --all -o wide",
		RunE: func(c *cobra.Command, _ []string) error {
			allText := ""
			if all {
				allText = "true"
			}
			return ask(c.Context(), g, query("bans", "limit", g.limitText(), "kind", kind, "origin", origin, "all", allText), g.viewBans)
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "peer or cidr")
	c.Flags().StringVar(&origin, "origin", "", "operator, auto or import")
	c.Flags().BoolVar(&all, "all", false, "also those that ended in the last 30 days")
	return c
}

func (g *globals) viewBans(l list[parley.Ban]) *table {
	t := &table{columns: []column{{name: "TARGET", tight: shortIDs}, {name: "ENDS"}, {name: "REASON"}, {name: "ORIGIN"}, {name: "HITS", right: true}, {name: "SINCE", right: true}, {name: "NOTE"},
		{name: "BY", wide: true}, {name: "TIMES", wide: true, right: true}, {name: "NODE", wide: true}}, empty: "nobody is banned"}
	for _, b := range l.Items {
		t.add(b.Target, banEnds(b), b.Reason, b.Origin, strconv.FormatUint(b.Hits, 10), since(b.Created), strings.Map(printable, b.Note),
			b.Actor, strconv.Itoa(b.Offences), b.Scope)
	}
	if l.NextCursor != "" {
		g.say("there are more bans: these are the first %d; --limit shows up to 1000", len(l.Items))
	}
	return t
}

func banEnds(b parley.Ban) string {
	switch {
	case b.Lifted != nil:
		return "lifted " + since(*b.Lifted) + " ago"
	case b.Until == nil:
		return "never"
	case b.Until.Before(time.Now()):
		return "ended " + since(*b.Until) + " ago"
	}
	return "in " + age(time.Until(*b.Until))
}

func bansAdd(g *globals) *cobra.Command {
	var f banFlags
	c := &cobra.Command{
		Use: "add T", Short: "Ban a peer ID, an IP address or a CIDR", Args: oneTarget,
		Long: targetHelp + "\nConnections with it are closed and refused, both ways, at once and after a restart; an address is refused before any handshake.\n" +
			"Without an end it is bans.duration from now. Where connected peers are cut off by a range, they are shown first and it asks.\n" +
			"What covers this node, its static or trusted peers, or more than a /8 (IPv6 /16) is refused without --force.",
		Example: "parley bans add 12D3KooW… --reason spam\nparley bans add 203.0.113.0/24 --for 48h --note scanner\nparley bans add 2001:db8::/32 --forever --dry-run",
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("for") && f.duration <= 0 {
				return fail(exitUsage, "--for %v: want a duration above 0 such as 24h, or --forever [PLY-002]", f.duration)
			}
			return g.addBan(c.Context(), args[0], f)
		},
	}
	c.Flags().DurationVar(&f.duration, "for", 0, "how long, such as 24h")
	c.Flags().StringVar(&f.until, "until", "", "when it ends, such as 2026-12-24T18:00:00Z")
	c.Flags().BoolVar(&f.forever, "forever", false, "until it is removed")
	c.Flags().StringVar(&f.reason, "reason", "", "a word for lists and metrics; default manual")
	c.Flags().StringVar(&f.note, "note", "", "for whoever reads the list later")
	c.Flags().BoolVar(&f.force, "force", false, "although it covers static or trusted peers, this node or very much")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "change nothing, show whom it would cut off")
	c.Flags().BoolVar(&f.sure, "yes", false, "cut off without asking")
	c.MarkFlagsMutuallyExclusive("for", "until", "forever")
	return c
}

// madeBan is what the node answers to a ban.
type madeBan struct {
	parley.Ban
	Closes []peer.ID `json:"closes"`
}

// request is the body that asks for a ban.
func (f banFlags) request(target string) (map[string]any, error) {
	body := map[string]any{"target": target, "forever": f.forever, "reason": f.reason, "note": f.note, "force": f.force}
	if f.duration != 0 {
		body["for"] = f.duration.String()
	}
	if f.until != "" {
		t, err := time.Parse(time.RFC3339, f.until)
		if err != nil {
			return nil, fail(exitUsage, "--until %q is no time: want one such as %s", f.until, when(time.Now().Add(48*time.Hour)))
		}
		body["until"] = t
	}
	return body, nil
}

func (g *globals) addBan(ctx context.Context, target string, f banFlags) error {
	body, err := f.request(target)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	post := func(path string) ([]byte, madeBan, error) {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, madeBan{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, g.timeout)
		defer cancel()
		answer, err := c.do(ctx, http.MethodPost, path, jsonMedia, text)
		if err != nil {
			return nil, madeBan{}, cautioned(err)
		}
		b, err := decode[madeBan](answer)
		return answer, b, err
	}
	view := func(verb string, b madeBan) func() (*table, error) {
		return func() (*table, error) {
			return facts(verb, b.Target, "ends", banEnds(b.Ban), "cuts off", count(len(b.Closes), "connected peer")), nil
		}
	}
	began := time.Now()
	answer, plan, err := post("bans?dry_run=true")
	if err != nil {
		return err
	}
	if f.dryRun {
		g.nameClosed(plan.Closes)
		return g.show(answer, view("would ban", plan))
	}
	if plan.Kind == "cidr" && len(plan.Closes) > 0 && !f.sure {
		g.nameClosed(plan.Closes)
		if err := g.confirmed(false, "--yes", fmt.Sprintf("banning %s cuts off %s", plan.Target, count(len(plan.Closes), "connected peer"))); err != nil {
			return err
		}
	}
	answer, made, err := post("bans")
	if err != nil {
		return err
	}
	if made.endsAfter(plan, time.Since(began)+time.Second) { // a ban is never made shorter by another
		end := "for ever"
		if made.Until != nil {
			end = "until " + when(*made.Until)
		}
		g.say("%s is already banned %s, kept: remove that ban first to have it end sooner", made.Target, end)
		return g.show(answer, view("already banned", made))
	}
	return g.show(answer, view("banned", made))
}

// endsAfter says that b ends later than was planned, by more than late, the time
// from plan to ban.
func (b *madeBan) endsAfter(plan madeBan, late time.Duration) bool {
	return plan.Until != nil && (b.Until == nil || b.Until.Sub(*plan.Until) > late)
}

func (g *globals) nameClosed(ids []peer.ID) {
	for i, id := range ids {
		if i == maxNamed {
			g.say("cuts off %d more", len(ids)-i)
			return
		}
		g.say("cuts off %s", id)
	}
}

func (g *globals) checkBan(ctx context.Context, target string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	body, err := c.get(ctx, query("bans/check", "target", target))
	if err != nil {
		return err
	}
	v, err := decode[struct {
		Banned bool        `json:"banned"`
		By     *parley.Ban `json:"by"`
	}](body)
	if err != nil {
		return err
	}
	err = g.show(body, func() (*table, error) {
		if v.By == nil {
			return facts("banned", "no"), nil
		}
		return facts("banned", "yes", "by the ban of", v.By.Target, "ends", banEnds(*v.By), "reason", v.By.Reason, "origin", v.By.Origin, "note", strings.Map(printable, v.By.Note)), nil
	})
	if err == nil && !v.Banned {
		err = &codeError{exitFailed, errSaid}
	}
	return err
}

func bansClear(g *globals) *cobra.Command {
	var origin string
	var sure bool
	c := &cobra.Command{
		Use: "clear", Short: "Lift all bans, or all of an origin", Args: cobra.NoArgs,
		Example: "parley bans clear --origin auto --yes",
		RunE: func(c *cobra.Command, _ []string) error {
			lifts := "this lifts every ban"
			if origin != "all" {
				lifts += " of origin " + origin
			}
			if err := g.confirmed(sure, "--yes", lifts); err != nil {
				return err
			}
			return changePeer(c.Context(), g, http.MethodDelete, query("bans", "origin", origin), nil, func(v struct {
				Removed int `json:"removed"`
			}) *table {
				return facts("lifted", strconv.Itoa(v.Removed))
			})
		},
	}
	c.Flags().StringVar(&origin, "origin", "all", "auto, operator, import or all")
	c.Flags().BoolVar(&sure, "yes", false, "without asking")
	return c
}

func bansImport(g *globals) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "import FILE", Short: "Ban what a list names", Args: cobra.ExactArgs(1),
		Long: "FILE has a target a line, with a note after #, or is what export writes; - is stdin. A line that is a target alone is banned for\n" +
			"bans.duration, 24h unless configured, and the answer says how many are: such a list is to be imported again before they end, or is named in\n" +
			"bans.import, which is read at each start and parley config reload. Lines of an export have their own end, and without one hold for ever: {\"target\":\"203.0.113.7\"}.\n" +
			"Lines that are not good are left out and told.",
		Example: "parley bans import blocklist.txt\nssh node2 parley bans export | parley bans import -",
		RunE:    func(c *cobra.Command, args []string) error { return g.importBans(c.Context(), args[0], force) },
	}
	c.Flags().BoolVar(&force, "force", false, "also what covers static or trusted peers, this node or very much")
	return c
}

func (g *globals) importBans(ctx context.Context, name string, force bool) error {
	path := "bans/import"
	if force {
		path += "?force=true"
	}
	body, done, err := sendLines[parley.BanImport](ctx, g, name, path)
	if err != nil {
		return err
	}
	for _, l := range done.Refused {
		g.sayRefused(l.Line, l.Why)
	}
	err = g.show(body, func() (*table, error) {
		t := facts("added", strconv.Itoa(done.Added))
		if d, err := time.ParseDuration(done.For); err == nil && done.Endless > 0 {
			t.add("without an end", fmt.Sprintf("%d, banned for %s (bans.duration)", done.Endless, age(d)))
		}
		t.add("banned already", strconv.Itoa(done.Known))
		t.add("refused", strconv.Itoa(done.RefusedLines))
		return t, nil
	})
	return g.someRefused(err, len(done.Refused), done.RefusedLines, done.RefusedLines+done.Added+done.Known)
}

// export writes what a route gives as it is.
func (g *globals) export(ctx context.Context, path string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(g.timeout, importWait))
	defer cancel()
	res, err := c.request(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(g.out, res.Body); err != nil {
		return c.unreachable(ctx, err)
	}
	return nil
}
