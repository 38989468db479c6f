package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// nobody is a hardware address that no interface has: what is sent there is
// lost on the way, without a word to the sender.
const nobody = "02:00:00:00:00:ff"

// network is a switch with a cable to each node. Switch and nodes have a
// network namespace each, so that nothing of it is seen outside.
type network struct {
	prefix string // of the namespaces
	nodes  int
}

var networks atomic.Int32 // made by this process

// newNetwork makes a network of nodes 1 … n. The caller MUST remove it.
func newNetwork(ctx context.Context, n int) (*network, error) {
	w := &network{prefix: fmt.Sprintf("ply%dx%d", os.Getpid(), networks.Add(1)), nodes: n}
	if err := w.build(ctx); err != nil {
		return nil, errors.Join(err, w.remove(ctx))
	}
	return w, nil
}

// hub is the namespace of the switch.
func (w *network) hub() string { return w.space(0) }

// space is the namespace of a node.
func (w *network) space(node int) string { return fmt.Sprintf("%s-%d", w.prefix, node) }

// address of a node: each one stands in a /24 of its own.
func address(node int) string { return fmt.Sprintf("10.77.%d.1", node) }

func (w *network) build(ctx context.Context) error {
	var spaces, cables []string
	for i := range w.nodes + 1 {
		spaces = append(spaces, "netns add "+w.space(i))
	}
	cables = append(cables, "link add switch type bridge", "link set switch up")
	for i := 1; i <= w.nodes; i++ {
		cables = append(cables, fmt.Sprintf("link add c%d type veth peer name eth0 netns %s", i, w.space(i)),
			fmt.Sprintf("link set c%d master switch", i), fmt.Sprintf("link set c%d up", i))
	}
	err := errors.Join(ip(ctx, "", spaces...), ip(ctx, w.hub(), cables...))
	for i := 1; i <= w.nodes && err == nil; i++ {
		err = ip(ctx, w.space(i), "link set lo up", fmt.Sprintf("addr add %s/16 dev eth0", address(i)), "link set eth0 up")
	}
	return err
}

// plug pulls a node's cable out of the switch, or puts it in again.
func (w *network) plug(ctx context.Context, node int, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return ip(ctx, w.hub(), fmt.Sprintf("link set c%d %s", node, state))
}

// cut loses all that from sends to the others. The other direction is left.
func (w *network) cut(ctx context.Context, from int, to ...int) error {
	var lines []string
	for _, t := range to {
		if t != from {
			lines = append(lines, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", address(t), nobody))
		}
	}
	return ip(ctx, w.space(from), lines...)
}

// split cuts each group off from the others, in both directions.
func (w *network) split(ctx context.Context, groups ...[]int) error {
	var err error
	for i, a := range groups {
		for j, b := range groups {
			for _, from := range a {
				if i != j {
					err = errors.Join(err, w.cut(ctx, from, b...))
				}
			}
		}
	}
	return err
}

// heal ends every cut and puts every cable in.
func (w *network) heal(ctx context.Context) error {
	var err error
	for i := 1; i <= w.nodes; i++ {
		err = errors.Join(err, w.plug(ctx, i, true), ip(ctx, w.space(i), "neigh flush dev eth0 nud permanent"))
	}
	return err
}

// remove ends what still runs in the network, and takes it away. It does so
// although ctx has ended.
func (w *network) remove(ctx context.Context) error {
	var err error
	for i := range w.nodes + 1 {
		err = errors.Join(err, removeSpace(context.WithoutCancel(ctx), w.space(i)))
	}
	return err
}

func removeSpace(ctx context.Context, space string) error {
	if _, err := os.Stat("/run/netns/" + space); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pids, err := exec.CommandContext(ctx, "ip", "netns", "pids", space).Output()
	for text := range strings.FieldsSeq(string(pids)) {
		if pid, bad := strconv.Atoi(text); bad == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	return errors.Join(err, ip(ctx, "", "netns del "+space))
}

var ours = regexp.MustCompile(`(?m)^ply(\d+)x\d+-\d+`)

// sweep removes networks whose harness was killed.
func sweep(ctx context.Context) error {
	list, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	for _, m := range ours.FindAllStringSubmatch(string(list), -1) {
		if pid, bad := strconv.Atoi(m[1]); bad == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			err = errors.Join(err, removeSpace(ctx, m[0]))
		}
	}
	return err
}

// able says why this machine cannot run a round, "" when it can.
func able(ctx context.Context) string {
	if _, err := exec.LookPath("ip"); err != nil {
		return "ip is not installed: apt-get install iproute2"
	}
	w, err := newNetwork(ctx, 1)
	if err != nil {
		return fmt.Sprintf("a lab of network namespaces needs root, and a kernel with veth and bridge: %v", err)
	}
	if err := w.remove(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// ip runs commands of ip in a namespace, "" = the one that we are in.
func ip(ctx context.Context, space string, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	args := []string{"-batch", "-"}
	if space != "" {
		args = append([]string{"-n", space}, args...)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "ip", args...) // it takes milliseconds, and half of it would be worse
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(append(args, lines...), " "), err, bytes.TrimSpace(out))
	}
	return nil
}
