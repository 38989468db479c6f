package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/devnet"
)

func (d *devnetFlags) partition(c *cobra.Command, args []string) error {
	groups, err := parseGroups(args)
	if err != nil {
		return usage(c, err)
	}
	n, err := d.open()
	if err != nil {
		return err
	}
	all, down, err := n.Partition(c.Context(), groups)
	if err != nil {
		return devnetError(err)
	}
	texts := make([]string, len(all))
	for i, group := range all {
		texts[i] = strings.Join(group, ",")
	}
	d.say("cut: %s; end it with parley devnet heal%s", strings.Join(texts, " / "), d.hint())
	d.sayDown(down)
	return nil
}

func (d *devnetFlags) heal(c *cobra.Command, _ []string) error {
	n, err := d.open()
	if err != nil {
		return err
	}
	down, err := n.Heal(c.Context())
	if err != nil {
		return devnetError(err)
	}
	d.say("healed: the nodes find each other again within seconds")
	d.sayDown(down)
	return nil
}

func (d *devnetFlags) sayDown(names []string) {
	if len(names) > 0 {
		d.say("down, and thus not told: %s", strings.Join(names, ", "))
	}
}

// parseGroups reads "n1 / n2,n3": groups by slash, names by comma or blank.
func parseGroups(args []string) ([][]string, error) {
	var groups [][]string
	for part := range strings.SplitSeq(strings.Join(args, " "), "/") {
		names := strings.FieldsFunc(part, func(r rune) bool { return r == ',' || r == ' ' })
		if len(names) == 0 {
			return nil, fmt.Errorf("groups %q: one of them is empty; write them like n1 / n2,n3", strings.Join(args, " "))
		}
		groups = append(groups, names)
	}
	return groups, nil
}

func (d *devnetFlags) load(c *cobra.Command, _ []string) error {
	o, err := d.loadOptions()
	if err != nil {
		return usage(c, err)
	}
	n, err := d.open()
	if err != nil {
		return err
	}
	b := newBar(d.globals)
	result, err := n.Load(c.Context(), o, func(l devnet.Load) {
		done, total := int64(l.Elapsed), int64(o.For)
		if o.Records > 0 {
			done, total = int64(l.Committed+l.Failed), int64(o.Records)
		}
		b.show(done, total, fmt.Sprintf("%d records, %.0f/s, p50 %.0f ms, p99 %.0f ms", l.Committed, l.RecordsPS, l.P50MS, l.P99MS))
	})
	b.end()
	if err != nil {
		return devnetError(err)
	}
	if len(result.Cut) > 0 {
		d.say("cut off, and thus not asked: %s; end it with parley devnet heal%s", strings.Join(result.Cut, ", "), d.hint())
	}
	if err := d.showValue(result, func() *table { return viewLoad(result) }); err != nil {
		return err
	}
	switch {
	case result.Missing != "":
		return fail(exitCheck, "the nodes do not agree: %s", result.Missing)
	case result.Failed > 0:
		return fail(exitFailed, "%s of %d not committed; the last because %s", count(result.Failed, "record"), result.Sent, result.LastError)
	}
	return nil
}

func (d *devnetFlags) loadOptions() (o devnet.LoadOptions, err error) {
	o = devnet.LoadOptions{For: d.length, Records: d.records}
	if d.rate != "max" {
		text := strings.TrimSuffix(d.rate, "/s")
		if o.Rate, err = strconv.ParseFloat(text, 64); err != nil || !(o.Rate > 0 && o.Rate <= 1e6) {
			return o, fmt.Errorf("--rate %s: want a number of records a second like 200/s, or max", d.rate)
		}
	}
	size, err := config.ParseSize(d.size)
	if err != nil || size < devnet.MinSize || size > devnet.MaxSize {
		return o, fmt.Errorf("--size %s: want %d to %d bytes", d.size, devnet.MinSize, devnet.MaxSize)
	}
	o.Size = int(size)
	if d.records < 0 || d.length <= 0 {
		return o, errors.New("--for and --records: want more than 0")
	}
	return o, nil
}

func viewLoad(l devnet.Load) *table {
	agree := "yes"
	if l.Missing != "" {
		agree = "no: " + l.Missing
	}
	return facts(
		"committed", fmt.Sprintf("%d of %d records in %.1f s", l.Committed, l.Sent, l.ElapsedS),
		"rate", fmt.Sprintf("%.1f records/s", l.RecordsPS),
		"to commit", fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, max %.1f ms", l.P50MS, l.P99MS, l.MaxMS),
		"pushed back", strconv.Itoa(l.Pushed),
		"nodes agree", agree,
	)
}
