package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/internal/devnet"
)

const (
	devnetRedraw = time.Second     // on a terminal
	devnetLine   = 2 * time.Second // elsewhere
)

// devnetFlags are what the commands of a devnet share.
type devnetFlags struct {
	*globals
	dir                string
	nodes, basePort    int
	bind               string
	detach, purge, all bool
	follow             bool
	lines              int
	rate, size         string
	length             time.Duration
	records            int
}

func devnetCommand(g *globals) *cobra.Command {
	d := &devnetFlags{globals: g}
	c := &cobra.Command{
		Use: "devnet", Short: "Several nodes on this machine; alone = up", Args: cobra.NoArgs,
		Long: "Starts real nodes as processes of their own that agree on one chain, and shows them at work.\n" +
			"Keys, chain and logs stay in --dir: the next start goes on with the same chain.",
		Example: "parley devnet\nparley devnet --nodes 4 --detach\nparley devnet load --rate 500/s\nparley devnet kill node3\nparley devnet restart node3\nparley devnet partition n1 / n2,n3\nparley devnet down",
		RunE:    d.up,
	}
	c.PersistentFlags().StringVar(&d.dir, "dir", devnet.DefaultDir, "where the devnet lives")
	up := devnetSub("up", "Start the devnet and watch it; Ctrl-C stops it", "parley devnet up --nodes 4\nparley devnet up --detach --base-port 8180", cobra.NoArgs, d.up)
	for _, c := range []*cobra.Command{c, up} {
		c.Flags().IntVar(&d.nodes, "nodes", 0, fmt.Sprintf("validators of a new devnet (default %d)", devnet.DefaultNodes))
		c.Flags().IntVar(&d.basePort, "base-port", 0, fmt.Sprintf("first API port, ops 1010 above (default %d, or as before)", devnet.DefaultBasePort))
		c.Flags().StringVar(&d.bind, "bind", "", fmt.Sprintf("address of API and p2p (default %s, or as before)", devnet.DefaultBind))
		c.Flags().BoolVar(&d.detach, "detach", false, "return when all agree; the nodes go on")
	}
	down := devnetSub("down", "Stop all nodes", "parley devnet down\nparley devnet down --purge", cobra.NoArgs, d.down)
	down.Flags().BoolVar(&d.purge, "purge", false, "delete keys, chain and logs too")
	logs := devnetSub("logs [NODE…]", "Show the nodes' logs", "parley devnet logs node2 -f\nparley devnet logs -n 5", cobra.ArbitraryArgs, d.logs)
	logs.Flags().BoolVarP(&d.follow, "follow", "f", false, "go on as they grow")
	logs.Flags().IntVarP(&d.lines, "lines", "n", 50, "last lines of each log")
	restart := devnetSub("restart NODE… | --all", "Stop and start nodes, with the same identity and chain", "parley devnet restart node2\nparley devnet restart --all", cobra.ArbitraryArgs, d.restart)
	restart.Flags().BoolVar(&d.all, "all", false, "every node, the killed ones too")
	load := devnetSub("load", "Write generated records and measure their way to commit", "parley devnet load --rate 500/s --for 1m\nparley devnet load --records 10000 --rate max", cobra.NoArgs, d.load)
	load.Flags().StringVar(&d.rate, "rate", "200/s", "records a second, or max")
	load.Flags().StringVar(&d.size, "size", "256", "bytes of a record's body")
	load.Flags().DurationVar(&d.length, "for", 30*time.Second, "how long")
	load.Flags().IntVar(&d.records, "records", 0, "so many instead of --for")
	c.AddCommand(up, down, logs, restart, load,
		devnetSub("status", "The nodes, once", "parley devnet status\nparley devnet status --json", cobra.NoArgs, d.status),
		devnetSub("add [NAME]", "One more node, told the first one's address only", "parley devnet add", cobra.MaximumNArgs(1), d.add),
		devnetSub("kill NODE", "End a node as a power cut does (SIGKILL)", "parley devnet kill node2", cobra.ExactArgs(1), d.kill),
		devnetSub("partition GROUP / GROUP …", "Cut groups of nodes off from each other, like n1 / n2,n3", "parley devnet partition n1 / n2,n3", cobra.MinimumNArgs(1), d.partition),
		devnetSub("heal", "End a partition", "parley devnet heal", cobra.NoArgs, d.heal),
	)
	return c
}

func devnetSub(use, short, example string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Example: example, Args: args, RunE: run}
}

// devnetError gives what devnet says its exit code.
func devnetError(err error) error {
	switch {
	case errors.Is(err, devnet.ErrNone), errors.Is(err, devnet.ErrNoNode):
		return &codeError{exitNotFound, err}
	case errors.Is(err, devnet.ErrDown):
		return &codeError{exitUnreachable, err}
	}
	return err
}

func (d *devnetFlags) open() (*devnet.Net, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	n, err := devnet.Open(d.dir, binary)
	return n, devnetError(err)
}

// hint is --dir for the commands that we advise.
func (d *devnetFlags) hint() string {
	if d.dir == devnet.DefaultDir {
		return ""
	}
	return " --dir " + d.dir
}

func (d *devnetFlags) up(c *cobra.Command, _ []string) error {
	ctx := c.Context()
	n, err := d.create(c)
	if err != nil {
		return err
	}
	s, err := n.State()
	if err != nil {
		return err
	}
	begin := time.Now()
	d.say("starting %s in %s", count(len(s.Nodes), "node"), d.dir)
	if err := n.Start(ctx, func(missing string) { d.say("  waiting: %s", missing) }); err != nil {
		return devnetError(err)
	}
	rows, err := n.Status(ctx)
	if err != nil {
		return err
	}
	d.say("all agree after %.1f s", time.Since(begin).Seconds())
	d.tellOps(rows)
	if d.output == "table" {
		d.welcome(n, rows)
	}
	if d.detach {
		return d.print(rows)
	}
	err = d.watchRows(ctx, n)
	if ctx.Err() == nil {
		return err
	}
	if now, err := n.State(); err == nil { // nodes may have been added
		s = now
	}
	d.say("\nstopping %s", count(len(s.Nodes), "node"))
	return d.stop(ctx, n)
}

// create settles the ports: where one is taken, a person is offered the next
// ones.
func (d *devnetFlags) create(c *cobra.Command) (*devnet.Net, error) {
	for _, name := range []string{"nodes", "base-port"} {
		if f := c.Flags().Lookup(name); f.Changed && strings.TrimLeft(f.Value.String(), "-0") == "" {
			return nil, usage(c, fmt.Errorf("--%s %s: want 1 or more", name, f.Value))
		}
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	o := devnet.Options{Dir: d.dir, Binary: binary, Nodes: d.nodes, BasePort: d.basePort, Bind: d.bind}
	n, err := devnet.Create(o)
	var taken *devnet.PortError
	if !errors.As(err, &taken) || taken.Base == 0 {
		return n, err
	}
	if _, tty := terminal(d.in); !tty || d.noInput {
		return nil, err
	}
	question := fmt.Sprintf("port %d is taken by %s; %d and the ports after it are free", taken.Port, taken.Holder, taken.Base)
	if err := d.confirmed(false, fmt.Sprintf("--base-port %d", taken.Base), question); err != nil {
		return nil, err
	}
	o.BasePort = taken.Base
	return devnet.Create(o)
}

// tellOps tells of nodes that had to start without a port for their metrics.
func (d *devnetFlags) tellOps(rows []devnet.Row) {
	for _, r := range rows {
		if r.OpsOff != "" {
			d.say("%s has no ops port, so no metrics: %s; free it, then parley devnet restart %s%s", r.Name, r.OpsOff, r.Name, d.hint())
		}
	}
}

// welcome says where the nodes are and what to try.
func (d *devnetFlags) welcome(n *devnet.Net, rows []devnet.Row) {
	w := d.out
	for _, r := range rows {
		if r.PID != 0 {
			fmt.Fprintf(w, "  %s  %s\n", r.Name, r.API)
		}
	}
	fmt.Fprintf(w, "\nexport PARLEY_NODE=unix:%s\n\n", n.Socket(rows[0].Name))
	fmt.Fprintf(w, "With that line the other commands ask %s. Try, in another terminal:\n", rows[0].Name)
	last := rows[len(rows)-1].Name
	for _, line := range []string{
		"parley status",
		`echo '{"subject":"hello","body":{"n":1}}' | parley tx submit -`,
		"parley tx history hello",
		"parley devnet load" + d.hint(),
		"parley devnet kill " + last + d.hint() + " && parley devnet restart " + last + d.hint(),
		"parley devnet add" + d.hint(),
		"curl " + rows[0].API + "/api/blockchain/status",
	} {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if d.detach {
		fmt.Fprintf(w, "\nThe nodes go on: look with parley devnet status%s, stop them with parley devnet down%s.\n\n", d.hint(), d.hint())
		return
	}
	fmt.Fprintf(w, "\nCtrl-C stops all nodes; keys and chain stay in %s.\n\n", d.dir)
}

// watchRows shows the nodes until ctx ends or another command stops them all.
func (d *devnetFlags) watchRows(ctx context.Context, n *devnet.Net) error {
	_, tty := terminal(d.out)
	live := tty && d.output == "table"
	every := devnetLine
	if live {
		every = devnetRedraw
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var sampler devnet.Sampler
	drawn := 0
	for {
		s, err := n.State()
		if errors.Is(err, os.ErrNotExist) || err == nil && s.Stopped {
			d.say("stopped by parley devnet down")
			return nil
		}
		if err != nil {
			return err
		}
		rows, err := n.Status(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		sampler.Rate(rows, time.Now())
		switch {
		case live:
			if drawn > 0 {
				fmt.Fprintf(d.out, "\x1b[%dA\x1b[J", drawn)
			}
			drawn = len(rows) + 1
			err = viewDevnet(rows).print(d.out, false)
		case d.output == "table":
			_, err = fmt.Fprintln(d.out, devnetSummary(rows, time.Now()))
		default:
			err = d.print(rows)
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// portOf is an address without its host.
func portOf(addr string) string { return addr[max(0, strings.LastIndex(addr, ":")):] }

// viewDevnet makes the table of nodes.
func viewDevnet(rows []devnet.Row) *table {
	t := &table{columns: []column{{name: "NODE"}, {name: "ROLE"}, {name: "PID", right: true}, {name: "API", tight: portOf}, {name: "PEERS", right: true},
		{name: "HEIGHT", right: true}, {name: "HEAD", tight: func(hash string) string { return hash[:min(len(hash), 6)] }}, {name: "RECORDS", right: true}, {name: "REC/S", right: true}, {name: "STATE"},
		{name: "OPS", wide: true}, {name: "SOCKET", wide: true}, {name: "PEER ID", wide: true}}}
	for _, r := range rows {
		cells := []string{r.Name, r.Role, "", r.API, "", "", "", "", "", r.State, r.Ops, r.Socket, r.PeerID.String()}
		if r.PID != 0 {
			cells[2] = strconv.Itoa(r.PID)
		}
		if r.Head != nil {
			cells[4], cells[5], cells[6] = strconv.Itoa(r.Peers), strconv.FormatUint(r.Height, 10), r.Head.Short()
			cells[7], cells[8] = strconv.FormatUint(r.Records, 10), fmt.Sprintf("%.0f", r.RecordsPS)
		}
		if r.State == "degraded" {
			cells[9] += ": " + r.Why
		}
		t.add(cells...)
	}
	return t
}

// devnetSummary is all nodes in one line, for logs.
func devnetSummary(rows []devnet.Row, now time.Time) string {
	var top devnet.Row
	up := 0
	var down []string
	for _, r := range rows {
		if r.PID == 0 {
			down = append(down, r.Name)
			continue
		}
		up++
		if top.Head == nil || r.Height > top.Height {
			top = r
		}
	}
	text := fmt.Sprintf("%s  %d of %d up  height %d  records %d  %.0f/s  ", now.Format("15:04:05"), up, len(rows), top.Height, top.Records, top.RecordsPS)
	if missing := devnet.Missing(rows); missing != "" {
		text += missing
	} else {
		text += "all agree"
	}
	if len(down) > 0 {
		text += "; down: " + strings.Join(down, ", ")
	}
	return text
}

// print shows the nodes in the format that the user chose.
func (d *devnetFlags) print(rows []devnet.Row) error {
	missing := devnet.Missing(rows)
	v := struct {
		list[devnet.Row]
		Agree   bool   `json:"agree"`
		Missing string `json:"missing,omitempty"`
	}{list[devnet.Row]{Items: rows, Count: len(rows)}, missing == "", missing}
	return d.showValue(v, func() *table { return viewDevnet(rows) })
}

func (d *devnetFlags) status(c *cobra.Command, _ []string) error {
	n, err := d.open()
	if err != nil {
		return err
	}
	var sampler devnet.Sampler
	rows, err := n.Status(c.Context())
	if err != nil {
		return err
	}
	sampler.Rate(rows, time.Now())
	select { // for a rate
	case <-time.After(devnetRedraw / 2):
	case <-c.Context().Done():
		return c.Context().Err()
	}
	if rows, err = n.Status(c.Context()); err != nil {
		return err
	}
	sampler.Rate(rows, time.Now())
	return d.print(rows)
}

func (d *devnetFlags) stop(ctx context.Context, n *devnet.Net) error {
	killed, err := n.Stop(ctx)
	for _, name := range killed {
		d.say("%s did not stop in time and was killed: see parley devnet logs %s%s", name, name, d.hint())
	}
	return err
}

func (d *devnetFlags) down(c *cobra.Command, _ []string) error {
	n, err := d.open()
	if err != nil {
		return err
	}
	if err := d.stop(c.Context(), n); err != nil {
		return err
	}
	if d.purge {
		if err := n.Purge(); err != nil {
			return err
		}
		d.say("the devnet in %s is stopped and deleted", d.dir)
		return nil
	}
	d.say("the devnet in %s is stopped; start it again with parley devnet%s", d.dir, d.hint())
	return nil
}

func (d *devnetFlags) logs(c *cobra.Command, args []string) error {
	if d.lines < 0 {
		return usage(c, fmt.Errorf("--lines %d: want 0 or more", d.lines))
	}
	n, err := d.open()
	if err != nil {
		return err
	}
	return devnetError(n.Logs(c.Context(), d.out, args, d.lines, d.follow))
}

func (d *devnetFlags) add(c *cobra.Command, args []string) error {
	n, err := d.open()
	if err != nil {
		return err
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	node, err := n.Add(c.Context(), name, func(missing string) { d.say("  waiting: %s", missing) })
	if err != nil {
		return devnetError(err)
	}
	d.say("%s joined, told only the first node's address; its data is in %s", node.Name, filepath.Join(d.dir, node.Name))
	return d.only(c.Context(), n, node.Name)
}

// only shows one node.
func (d *devnetFlags) only(ctx context.Context, n *devnet.Net, names ...string) error {
	rows, err := n.Status(ctx)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(r devnet.Row) bool { return !slices.Contains(names, r.Name) })
	d.tellOps(rows)
	return d.print(rows)
}

func (d *devnetFlags) kill(_ *cobra.Command, args []string) error {
	n, err := d.open()
	if err != nil {
		return err
	}
	node, err := n.Kill(args[0])
	if err != nil {
		return devnetError(err)
	}
	d.say("%s (pid %d) is killed; start it again with parley devnet restart %s%s", node.Name, node.PID, node.Name, d.hint())
	return nil
}

func (d *devnetFlags) restart(c *cobra.Command, args []string) error {
	if d.all == (len(args) > 0) {
		return usage(c, errors.New("name the nodes, or say --all"))
	}
	n, err := d.open()
	if err != nil {
		return err
	}
	if err := n.Restart(c.Context(), args, func(missing string) { d.say("  waiting: %s", missing) }); err != nil {
		return devnetError(err)
	}
	rows, err := n.Status(c.Context())
	if err != nil {
		return err
	}
	d.tellOps(rows)
	return d.print(rows)
}
