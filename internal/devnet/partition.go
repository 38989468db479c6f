package devnet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/parley-p2p/parley/consortium"
)

// Partition cuts the groups of nodes off from each other. Nodes that no group
// names make one more group. Those that do not run are returned: they are told
// when they are started again.
func (n *Net) Partition(ctx context.Context, groups [][]string) (all [][]string, down []string, err error) {
	s, err := n.State()
	if err != nil {
		return nil, nil, err
	}
	of := map[string]int{}
	for i, group := range groups {
		names := []string{}
		for _, name := range group {
			node, err := s.node(name)
			if err != nil {
				return nil, nil, err
			}
			if _, twice := of[node.Name]; twice {
				return nil, nil, fmt.Errorf("partition: %s is named twice", node.Name)
			}
			of[node.Name] = i
			names = append(names, node.Name)
		}
		all = append(all, names)
	}
	var rest []string
	for _, node := range s.Nodes {
		if _, named := of[node.Name]; !named {
			rest = append(rest, node.Name)
		}
	}
	if len(rest) > 0 {
		all = append(all, rest)
	}
	if len(all) < 2 {
		return nil, nil, fmt.Errorf("partition: all nodes are in one group: name two, like n1 / n2,n3")
	}
	down, err = n.tellAll(ctx, partitionPath, groupsBody(all))
	if errors.Is(err, ErrDown) {
		return nil, down, err
	}
	return all, down, errors.Join(err, n.remember(all))
}

const partitionPath = "devnet/partition"

func groupsBody(groups [][]string) any { return map[string]any{"groups": groups} }

// remember keeps a partition for those who expect the nodes to agree; nil ends
// it.
func (n *Net) remember(groups [][]string) error {
	return n.update(func(s *State) error {
		s.Partition = groups
		return nil
	})
}

// Heal ends a partition. Those nodes that do not run are returned.
func (n *Net) Heal(ctx context.Context) (down []string, err error) {
	down, err = n.tellAll(ctx, "devnet/heal", nil)
	if err != nil && !errors.Is(err, ErrDown) {
		return down, err // some are cut still
	}
	return down, errors.Join(err, n.remember(nil))
}

// cutAgain tells nodes that were just started of the partition that is on.
func (n *Net) cutAgain(ctx context.Context, names []string) error {
	s, err := n.State()
	if err != nil || s.Partition == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	for _, name := range names {
		poll(ctx, pollInterval, func() bool {
			if ended := n.ended(s); ended != nil {
				err = ended
				return true
			}
			_, err = n.client(name).Do(ctx, http.MethodPost, partitionPath, groupsBody(s.Partition), nil)
			return err == nil
		})
		if err != nil {
			return fmt.Errorf("tell %s of the partition: %w", name, err)
		}
	}
	return nil
}

// split sorts rows into the groups of the partition, all into one without.
func (s *State) split(rows []Row) [][]Row {
	if s.Partition == nil {
		return [][]Row{rows}
	}
	groups := make([][]Row, len(s.Partition))
	for i, names := range s.Partition {
		for _, r := range rows {
			if slices.Contains(names, r.Name) {
				groups[i] = append(groups[i], r)
			}
		}
	}
	return groups
}

// missing is [Missing] in each group of the partition.
func (s *State) missing(rows []Row) string {
	for _, group := range s.split(rows) {
		if m := Missing(group); m != "" {
			return m
		}
	}
	return ""
}

// committing are the nodes of up that can have a record committed: those on
// the side of the partition that has a quorum of validators.
func (s *State) committing(up []Node) (can []Node, cut []string) {
	if s.Partition == nil {
		return up, nil
	}
	all := make([]consortium.Validator, s.validators())
	for i := range all {
		all[i].ID = uint64(i + 1)
	}
	quorum := consortium.NewValidatorSet(all).Quorum()
	for _, names := range s.Partition {
		validators := 0
		var group []Node
		for _, node := range up {
			if !slices.Contains(names, node.Name) {
				continue
			}
			group = append(group, node)
			if node.Role == RoleValidator {
				validators++
			}
		}
		if validators >= quorum {
			can = append(can, group...)
			continue
		}
		for _, node := range group {
			cut = append(cut, node.Name)
		}
	}
	return can, cut
}

func (n *Net) tellAll(ctx context.Context, path string, body any) (down []string, err error) {
	s, err := n.State()
	if err != nil {
		return nil, err
	}
	for _, node := range s.Nodes {
		if !n.isUp(node) {
			down = append(down, node.Name)
			continue
		}
		if _, err := n.client(node.Name).Do(ctx, http.MethodPost, path, body, nil); err != nil {
			return down, fmt.Errorf("%s: %w", node.Name, err)
		}
	}
	if len(down) == len(s.Nodes) {
		return down, fmt.Errorf("the devnet in %s is %w: start it with parley devnet", n.dir, ErrDown)
	}
	return down, nil
}
