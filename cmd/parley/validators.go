package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

const maxChange = 1 << 20 // bytes of a change file; the change itself is at most 64 KiB

// changeFlags are what the commands share that change the validators.
type changeFlags struct {
	*globals
	yes, force                bool
	addAdmins, removeAdmins   []string
	threshold                 int
	out                       string
	adminsToAdd, adminsToDrop []string // of validators admins

	command *cobra.Command    // that runs
	args    []string          // of it
	named   map[string]string // names among them → the peer ids that they stand for
}

const whichNode = "ID is a peer ID, a key (ed25519:…), self for the node that is asked, or, where you are asked, the name of it or of one connected with it."

const selfWord = "self"

func validatorsCommand(g *globals) *cobra.Command {
	f := &changeFlags{globals: g}
	list := func(c *cobra.Command, _ []string) error {
		return ask(c.Context(), g, query("chain/validators", "limit", g.limitText()), func(l list[parley.Validator]) *table { return g.viewValidators(l) })
	}
	c := &cobra.Command{
		Use: "validators", Short: "Who signs the next block, and changes of that; alone = list", Args: cobra.NoArgs, RunE: list,
		Long: "A change is a record that the chain's admins approve. This node approves with its own key where that is an admin's.\n" +
			"Where more approvals are needed the change is written to a file, which the other admins apply on their nodes.",
		Example: "parley chain validators\nparley chain validators add node2 node3\nparley chain validators remove node1\nparley chain validators apply change-1.json\nparley chain validators admins --add node2",
	}
	add := &cobra.Command{
		Use: "add ID…", Short: "Make connected nodes validators, all in one record", Args: cobra.MinimumNArgs(1), RunE: f.add,
		Long:    whichNode + " Its name and addresses are those that it tells its peers.",
		Example: "parley chain validators add node2 node3\nparley chain validators add self\nparley chain validators add 12D3KooW… --add-admin 12D3KooW…",
	}
	remove := &cobra.Command{
		Use: "remove ID…", Short: "Make validators followers, all in one record", Args: cobra.MinimumNArgs(1), RunE: f.remove,
		Long:    "ID is the number or the name of a validator, its peer ID or its key; self is the node that is asked. The leader may go, and so may this node.",
		Example: "parley chain validators remove 4\nparley chain validators remove node2 node3",
	}
	apply := &cobra.Command{
		Use: "apply FILE", Short: "Approve a change that another admin began, or make one from a file", Args: cobra.ExactArgs(1), RunE: f.apply,
		Long: "FILE is what add, remove or apply wrote because approvals were missing; with this node's approval it is handed in, or written again.\n" +
			"Or it is a request: {\"add\":[{\"key\":\"ed25519:…\"}],\"remove\":[1],\"add_admins\":[\"ed25519:…\"],\"remove_admins\":[],\"threshold\":2}.",
		Example: "parley chain validators apply change-1.json",
	}
	admins := &cobra.Command{
		Use: "admins", Short: "Whose approvals change the validators; with flags, change that", Args: cobra.NoArgs, RunE: f.admins,
		Long: "Have two admins or more: a lost sole key freezes the set of validators for ever.\n" +
			whichNode,
		Example: "parley chain validators admins\nparley chain validators admins --add 12D3KooW… --threshold 2",
	}
	for _, c := range []*cobra.Command{add, remove, apply, admins} {
		c.PreRun = func(c *cobra.Command, args []string) { f.command, f.args, f.named = c, args, map[string]string{} }
		c.Flags().BoolVar(&f.yes, "yes", false, "do not ask; also take two validators, of which neither may stop")
		c.Flags().BoolVar(&f.force, "force", false, "though somebody that is needed is away or behind")
		c.Flags().StringVar(&f.out, "out", "", "where a change goes that needs more approvals (default: change-EPOCH.json)")
		c.Flags().IntVar(&f.threshold, "threshold", 0, "how many admins must approve from then on")
	}
	for _, c := range []*cobra.Command{add, remove} {
		c.Flags().StringArrayVar(&f.addAdmins, "add-admin", nil, "ID of a new admin, in the same record")
		c.Flags().StringArrayVar(&f.removeAdmins, "remove-admin", nil, "ID of an admin that is to go")
	}
	admins.Flags().StringArrayVar(&f.adminsToAdd, "add", nil, "ID of a new admin, repeatable")
	admins.Flags().StringArrayVar(&f.adminsToDrop, "remove", nil, "ID of an admin that is to go, repeatable")
	c.AddCommand(&cobra.Command{Use: "list", Short: "Who signs the next block", Args: cobra.NoArgs, RunE: list, Example: "parley chain validators list -o wide"},
		add, remove, apply, admins)
	return c
}

func (g *globals) viewValidators(l list[parley.Validator]) *table {
	t := &table{columns: []column{{name: "ID", right: true}, {name: "NAME"}, {name: "CONNECTED"}, {name: "LEADER"}, {name: "HEIGHT", right: true},
		{name: "PEER"}, {name: "PEER ID", wide: true}, {name: "KEY", wide: true}}}
	led := slices.ContainsFunc(l.Items, func(v parley.Validator) bool { return v.Leader })
	connected := 0
	for _, v := range l.Items {
		leader, height := yes(v.Leader), strconv.FormatUint(v.Height, 10)
		if !led { // a follower does not know
			leader = "-"
		}
		if v.Connected {
			connected++
		} else {
			height = "-"
		}
		t.add(strconv.FormatUint(v.ID, 10), v.Name, yes(v.Connected), leader, height, short(v.Peer.String()), v.Peer.String(), v.Key.String())
	}
	if l.NextCursor == "" && len(l.Items) > 0 && g.watch <= 0 {
		g.say("%s", standing(connected, tolerance(len(l.Items))))
	}
	return t
}

// tolerance is what n validators survive.
func tolerance(n int) parley.Tolerance {
	vs := make([]consortium.Validator, n)
	for i := range vs {
		vs[i].ID, vs[i].Key = uint64(i)+1, consortium.PublicKey{byte(i)}
	}
	set := consortium.NewValidatorSet(vs)
	return parley.Tolerance{N: n, Quorum: set.Quorum(), Crashes: set.Crashes(), Traitors: set.Faults()}
}

// standing tells what a set survives of whom so many are connected.
func standing(connected int, t parley.Tolerance) string {
	text := fmt.Sprintf("%d connected, %d needed: ", connected, t.Quorum)
	switch spare := connected - t.Quorum; {
	case connected == t.N:
		return text + survives(t)
	case spare < 0:
		return text + "nothing is committed until " + plural(-spare, "more is back", "more are back")
	case spare == 0:
		return text + "no more may fail"
	default:
		return text + fmt.Sprintf("%d more may fail", spare)
	}
}

func survives(t parley.Tolerance) string {
	switch {
	case t.Crashes == 0 && t.N == 1:
		return "when it stops, nothing is committed"
	case t.Crashes == 0:
		return "when any one stops, nothing is committed"
	}
	crashes, traitors := plural(t.Crashes, "crash", "crashes"), "no traitor"
	if t.Traitors > 0 {
		traitors = plural(t.Traitors, "traitor", "traitors")
	}
	return fmt.Sprintf("survives %s, %s", crashes, traitors)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func (f *changeFlags) add(c *cobra.Command, args []string) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	req, err := f.withAdmins(c.Context(), cl)
	if err != nil {
		return err
	}
	keys, err := f.keysOf(c.Context(), cl, args)
	if err != nil {
		return err
	}
	for _, key := range keys {
		req.Add = append(req.Add, parley.Candidate{Key: key})
	}
	return f.change(c.Context(), cl, req, "")
}

// withAdmins begins a change with what the flags say of admins.
func (f *changeFlags) withAdmins(ctx context.Context, cl *client) (req parley.ChangeRequest, err error) {
	req.Threshold = f.threshold
	if req.AddAdmins, err = f.keysOf(ctx, cl, f.addAdmins); err == nil {
		req.RemoveAdmins, err = f.keysOf(ctx, cl, f.removeAdmins)
	}
	return req, err
}

// keysOf finds what nodeOf finds, for each.
func (f *changeFlags) keysOf(ctx context.Context, cl *client, ids []string) ([]string, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		key, err := f.nodeOf(ctx, cl, id)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
}

// nodeOf finds the node that calls itself so: the one that is asked, or one
// connected with it. Anybody may take a name, so somebody has to look at what it
// stands for.
func (f *changeFlags) nodeOf(ctx context.Context, cl *client, id string) (string, error) {
	if isKey(id) {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	asked, err := fetch[parley.Status](ctx, cl, "status")
	if err != nil {
		return "", err
	}
	if id == selfWord {
		return asked.PeerID.String(), nil
	}
	end, isEnd := strings.CutPrefix(strings.Replace(id, "...", "…", 1), "…")
	if f.yes && isEnd {
		return "", fail(exitUsage, "%q is the end of a peer ID, and others may end so: with --yes give the whole, see parley peers list -o wide", id)
	}
	if f.yes {
		mend := "name the node by its peer ID, see parley peers list -o wide"
		if id == asked.Name {
			mend = "say self for the node that is asked, or give its peer ID, " + asked.PeerID.String() + ", see parley status"
		}
		return "", fail(exitUsage, "%q is a name, which any peer may give itself: with --yes %s", id, mend)
	}
	peers, err := fetch[list[parley.Peer]](ctx, cl, "peers?limit=1000")
	if err != nil {
		return "", err
	}
	var found []string
	if id == asked.Name || isEnd && strings.HasSuffix(asked.PeerID.String(), end) {
		found = append(found, asked.PeerID.String())
	}
	for _, p := range peers.Items {
		if p.Name == id || isEnd && strings.HasSuffix(p.ID.String(), end) {
			found = append(found, p.ID.String())
		}
	}
	switch len(found) {
	case 1:
		f.named[id] = found[0]
		return found[0], nil
	case 0:
		return "", fail(exitNotFound, "neither this node, %q, nor a connected peer has the name %q: see parley peers list, or give a peer ID", asked.Name, id)
	}
	if isEnd {
		return "", fail(exitUsage, "%d nodes have a peer ID that ends in %q: give the whole of one: %s", len(found), end, strings.Join(found, ", "))
	}
	return "", fail(exitUsage, "%d nodes call themselves %q: give the peer ID of one: %s", len(found), id, strings.Join(found, ", "))
}

func isKey(id string) bool {
	if _, err := peer.Decode(id); err == nil {
		return true
	}
	_, err := consortium.ParsePublicKey(id)
	return err == nil || strings.HasPrefix(id, "ed25519:") // and the node says what is wrong
}

func (f *changeFlags) remove(c *cobra.Command, args []string) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), f.timeout)
	defer cancel()
	validators, err := fetch[list[parley.Validator]](ctx, cl, "chain/validators")
	if err != nil {
		return err
	}
	req, err := f.withAdmins(c.Context(), cl)
	if err != nil {
		return err
	}
	for _, a := range args {
		if a == selfWord {
			if a, err = f.nodeOf(c.Context(), cl, a); err != nil {
				return err
			}
		}
		var found []uint64
		for _, v := range validators.Items {
			if slices.Contains([]string{strconv.FormatUint(v.ID, 10), v.Name, v.Peer.String(), v.Key.String()}, a) {
				found = append(found, v.ID)
			}
		}
		switch len(found) {
		case 1:
			req.Remove = append(req.Remove, found[0])
		case 0:
			return fail(exitNotFound, "no validator is %q: see parley chain validators list", a)
		default:
			return fail(exitUsage, "%q is the name of %d validators: give a number: %v", a, len(found), found)
		}
	}
	return f.change(c.Context(), cl, req, "")
}

func (f *changeFlags) admins(c *cobra.Command, _ []string) error {
	if len(f.adminsToAdd)+len(f.adminsToDrop) == 0 && f.threshold == 0 {
		return ask(c.Context(), f.globals, "chain", func(v parley.Chain) *table {
			t := &table{columns: []column{{name: "ADMIN"}, {name: "PEER ID"}}}
			for _, k := range v.Admins {
				id, err := k.PeerID()
				if err != nil {
					t.add(k.String(), "")
					continue
				}
				t.add(k.String(), id.String())
			}
			f.say("%d of %d must approve a change", v.Threshold, len(v.Admins))
			return t
		})
	}
	cl, err := f.client()
	if err != nil {
		return err
	}
	req := parley.ChangeRequest{Threshold: f.threshold}
	if req.AddAdmins, err = f.keysOf(c.Context(), cl, f.adminsToAdd); err != nil {
		return err
	}
	if req.RemoveAdmins, err = f.keysOf(c.Context(), cl, f.adminsToDrop); err != nil {
		return err
	}
	return f.change(c.Context(), cl, req, "")
}

func (f *changeFlags) apply(c *cobra.Command, args []string) error {
	raw, err := f.readFile(args[0], maxChange, "a change")
	if err != nil {
		return err
	}
	var prepared struct {
		Change string `json:"change"`
	}
	req := parley.ChangeRequest{}
	if err := json.Unmarshal(raw, &prepared); err == nil && prepared.Change != "" {
		req.Change = prepared.Change
	} else {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil {
			return fail(exitUsage, "%s: %w: want what add or remove wrote, or a request such as {\"add\":[{\"key\":\"ed25519:…\"}]}", args[0], err)
		}
	}
	if f.threshold != 0 {
		return fail(exitUsage, "--threshold: put it into %s", args[0])
	}
	cl, err := f.client()
	if err != nil {
		return err
	}
	return f.change(c.Context(), cl, req, args[0])
}

// change shows what a change does, asks, and makes it. file is where it came
// from, "" = from the command line.
func (f *changeFlags) change(ctx context.Context, cl *client, req parley.ChangeRequest, file string) error {
	if f.timeout <= 0 || f.timeout > maxWait {
		return fail(exitUsage, "--timeout %s: want more than 0, at most %s", f.timeout, maxWait)
	}
	req.Force, req.AcceptTwo = req.Force || f.force, req.AcceptTwo || f.yes
	req.DryRun = true
	plan, body, err := f.post(ctx, cl, req)
	if err != nil {
		return err
	}
	if plan.Status != parley.ChangePlanned {
		f.say("nothing to do: this is in force since block %d", *plan.Height)
		return f.show(body, func() (*table, error) { return viewChange(plan), nil })
	}
	f.tell(plan)
	if err := f.confirmed(f.yes, f.sayYes(), "this changes the chain for all its nodes"); err != nil {
		return err
	}
	// just what was shown, or nothing
	done, body, err := f.post(ctx, cl, parley.ChangeRequest{Change: plan.Change, Force: req.Force, AcceptTwo: req.AcceptTwo})
	if err != nil {
		return err
	}
	if done.Status == parley.ChangeWaiting {
		if err := f.save(done, body, file); err != nil {
			return err
		}
	}
	if done.Status == parley.ChangePending {
		f.say("handed in and not committed yet: it goes on; see parley tx get %s", done.Record)
	}
	return f.show(body, func() (*table, error) { return viewChange(done), nil })
}

func (f *changeFlags) post(ctx context.Context, cl *client, req parley.ChangeRequest) (parley.Change, []byte, error) {
	request, err := json.Marshal(req)
	if err != nil {
		return parley.Change{}, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout+time.Second) // the node's own limit ends first
	defer cancel()
	body, err := cl.do(ctx, http.MethodPost, query("chain/validators", "timeout", f.timeout.String()), jsonMedia, request)
	if err != nil {
		return parley.Change{}, nil, cautioned(err)
	}
	c, err := decode[parley.Change](body)
	return c, body, err
}

// cautioned names the flag of the command line in place of that of the API.
func cautioned(err error) error {
	no, ok := errors.AsType[*apiError](err)
	if !ok || no.Code != "PLY-007" {
		return err
	}
	flag := map[string]string{"force": "--force", "accept_two": "--yes"}[no.Reason]
	text, _, _ := strings.Cut(no.Detail, ` (with "`)
	return &codeError{exitFailed, fmt.Errorf("%s: %s does it nevertheless [%s]", text, flag, no.Code)}
}

// tell says what a change does, to people.
func (f *changeFlags) tell(c parley.Change) {
	for _, v := range c.Added {
		f.say("  add      %d  %s  %s", v.ID, f.clean(v.Name), v.Peer)
	}
	for _, v := range c.Removed {
		f.say("  remove   %d  %s  %s", v.ID, f.clean(v.Name), v.Peer)
	}
	for _, k := range c.Admins.Added {
		f.say("  add admin     %s", adminText(k))
	}
	for _, k := range c.Admins.Removed {
		f.say("  remove admin  %s", adminText(k))
	}
	for _, text := range c.Other {
		f.say("  %s", f.clean(text))
	}
	if len(c.Added)+len(c.Removed) > 0 {
		f.say("  before   %s, quorum %d: %s", plural(c.Before.N, "validator", "validators"), c.Before.Quorum, survives(c.Before))
		f.say("  after    %s, quorum %d: %s", plural(c.After.N, "validator", "validators"), c.After.Quorum, survives(c.After))
	}
	f.say("  admins   %d of %d must approve from then on", c.Admins.Threshold, c.Admins.N)
	for _, w := range c.Warnings {
		f.say("  note: %s", f.clean(w))
	}
}

// adminText is a peer ID, which people know from the list of peers.
func adminText(k consortium.PublicKey) string {
	if id, err := k.PeerID(); err == nil {
		return id.String()
	}
	return k.String()
}

// clean keeps names from outside from moving the terminal.
func (f *changeFlags) clean(s string) string { return strings.Map(printable, s) }

// save writes a change that needs more approvals, and says what to do with it.
func (f *changeFlags) save(c parley.Change, body []byte, file string) error {
	if f.out != "" {
		file = f.out
	} else if file == "" || file == "-" || c.Approvals <= 1 {
		file = fmt.Sprintf("change-%d.json", c.Epoch)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, body, "", "  "); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	if err := os.WriteFile(file, append(bytes.TrimSpace(text.Bytes()), '\n'), 0o644); err != nil {
		return fmt.Errorf("write the change: %w", err)
	}
	f.say("%d of %s: hand %s to another admin, who runs on his node: parley chain validators apply %s",
		c.Approvals, plural(c.Threshold, "approval", "approvals"), file, file)
	return nil
}

func viewChange(c parley.Change) *table {
	t := facts("status", c.Status)
	if c.Status != parley.ChangeCommitted { // for which there were enough
		t.add("approvals", fmt.Sprintf("%d of %d", c.Approvals, c.Threshold))
	}
	if c.Height != nil {
		t.add("height", strconv.FormatUint(*c.Height, 10))
	}
	t.add("validators", fmt.Sprintf("%d, quorum %d: %s", c.After.N, c.After.Quorum, survives(c.After)))
	return t
}
