package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

func statusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "One screen about the node", Args: cobra.NoArgs,
		Example: "parley status\nparley status --watch",
		RunE: func(c *cobra.Command, _ []string) error {
			return ask(c.Context(), g, "status", viewStatus)
		},
	}
}

func viewStatus(s parley.Status) *table {
	chain, tip := s.ChainID, "not known yet"
	if chain == "" {
		chain = "not known yet"
	}
	if s.Head != nil {
		tip = fmt.Sprintf("%d  %s  %s ago", s.Head.Height, head(s.Head.Hash.String()), seconds(s.Head.AgeS))
	}
	validators := "not known yet"
	t := facts("verdict", s.Verdict)
	t.whole = true
	if v := s.Validators; v != nil {
		validators = validatorsText(v)
		if v.Connected == v.Quorum && len(v.Away) > 0 {
			t.add("warning", fmt.Sprintf("one validator less, and nothing is committed: away is %s; see parley chain validators", namesText(v.Away)))
		}
	}
	for _, reason := range s.Reasons {
		t.add("reason", reason)
	}
	t.rows = append(t.rows, facts(
		"node", s.Name+", "+s.Role,
		"peer id", s.PeerID.String(),
		"chain", chain,
		"validators", validators,
		"head", tip,
		"sync", syncText(s.Sync),
		"peers", peersText(s.Peers),
		"waiting", fmt.Sprintf("%s, %s", count(s.Mempool.Records, "record"), size(s.Mempool.Bytes)),
		"version", s.Version+", up "+seconds(s.UptimeS),
	).rows...)
	if s.Network != config.NetworkConsortium { // validators and records are the embedded chain's
		t.rows = slices.DeleteFunc(t.rows, func(row []string) bool { return row[0] == "validators" || row[0] == "waiting" })
	}
	for _, off := range s.TransportsOff {
		t.add("off", off)
	}
	for _, a := range s.Alarms { // those that are not yet among the reasons
		if !slices.ContainsFunc(s.Reasons, func(r string) bool { return strings.Contains(r, a.Text) }) {
			t.add("alarm", a.Code+": "+a.Text)
		}
	}
	if v := s.Verification; v != nil {
		t.add("backup", viewVerification(v))
	}
	return t
}

// validatorsText tells how many are there, how many more may go, and who is away.
func validatorsText(v *parley.ValidatorsN) string {
	text := fmt.Sprintf("%d of %d connected, %d needed", v.Connected, v.N, v.Quorum)
	switch spare := v.Connected - v.Quorum; {
	case spare == 0:
		text += ": survives no loss"
	case spare > 0:
		text += fmt.Sprintf(": survives the loss of %d", spare)
	}
	if len(v.Away) > 0 {
		text += "; away: " + namesText(v.Away)
	}
	return text
}

// namesText lists a few names.
func namesText(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

func peersText(p parley.StatusPeers) string {
	text := fmt.Sprintf("%d connected: %d in, %d out", p.Inbound+p.Outbound, p.Inbound, p.Outbound)
	if p.Target > 0 {
		text += fmt.Sprintf("; up to %d found ones are kept", p.Target)
	}
	return text + fmt.Sprintf("; %d known", p.Known)
}

// viewVerification tells how far the chain of a backup was verified.
func viewVerification(v *parley.Verification) string {
	switch v.State {
	case "running":
		text := fmt.Sprintf("verifying block %d of %d", v.Done, v.Total)
		if v.ETAS > 0 {
			text += ", " + seconds(v.ETAS) + " left"
		}
		return text
	case "good":
		return fmt.Sprintf("verified from the genesis to block %d", v.Total)
	}
	return v.State + ": " + v.Detail
}

func healthCommand(g *globals) *cobra.Command {
	var live, ready bool
	c := &cobra.Command{
		Use: "health", Short: "Probe for containers and cron: exit 0 or 4", Args: cobra.NoArgs,
		Example: "parley health\nparley health --live",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), g.timeout)
			defer cancel()
			switch {
			case live:
				return g.probe(ctx, "/livez")
			case ready:
				return g.probe(ctx, "/readyz")
			}
			return g.health(ctx)
		},
	}
	c.Flags().BoolVar(&live, "live", false, "only: can the node do its work at all")
	c.Flags().BoolVar(&ready, "ready", false, "only: is the node ready for use")
	c.MarkFlagsMutuallyExclusive("live", "ready")
	return c
}

// probe asks a route whose status is the answer.
func (g *globals) probe(ctx context.Context, path string) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	body, err := c.get(ctx, path)
	var no *apiError
	if errors.As(err, &no) && no.Status == http.StatusServiceUnavailable {
		return &codeError{exitCheck, err}
	}
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if text == "" || strings.HasPrefix(text, "{") && g.output != "json" {
		text = "ok"
	}
	return writeLine(g.out, []byte(text))
}

func (g *globals) health(ctx context.Context) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	body, err := c.get(ctx, "health")
	if err != nil {
		return err
	}
	h, err := decode[parley.Health](body)
	if err != nil {
		return err
	}
	if g.output == "table" {
		err = writeLine(g.out, []byte(h.Status))
	} else {
		err = g.show(body, func() (*table, error) { return viewHealth(h), nil })
	}
	if err != nil || h.Status == "ready" {
		return err
	}
	var why []string
	for _, check := range h.Checks {
		if !check.OK {
			why = append(why, check.Name+": "+check.Note)
		}
	}
	return fail(exitCheck, "the node is %s: %s", strings.ReplaceAll(h.Status, "_", " "), strings.Join(why, "; "))
}

func viewHealth(h parley.Health) *table {
	t := &table{columns: []column{{name: "CHECK"}, {name: "OK"}, {name: "NOTE"}}}
	for _, c := range h.Checks {
		t.add(c.Name, fmt.Sprint(c.OK), c.Note)
	}
	return t
}
