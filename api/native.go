package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

const (
	prefix    = "/api/v1/"
	humaSpare = 1  // huma refuses a body of just its limit
	maxFaults = 20 // of a configuration, that are told
)

// operation registers a native route. What f fails with becomes a problem.
func operation[I, O any](s *Server, method, path string, a access, summary string, f func(context.Context, *I) (*O, error), more ...func(*huma.Operation)) {
	op := huma.Operation{
		OperationID: operationID(method, path), Method: method, Path: prefix + path, Summary: summary,
		Metadata: map[string]any{accessKey: a}, MaxBodyBytes: defaultMaxBody + humaSpare, BodyReadTimeout: bodyTimeout,
		Security: security(a), Responses: map[string]*huma.Response{},
	}
	for _, m := range more {
		m(&op)
	}
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, s.problemOf(err)
		}
		return out, nil
	})
	statuses, _ := op.Metadata[alsoKey].([]int)
	describeAlso(op.Responses, statuses)
}

func operationID(method, path string) string {
	return strings.ToLower(method) + "-" + strings.NewReplacer("/", "-", "{", "", "}", "").Replace(path)
}

// large makes an operation wait for a place, since its answer may be large.
func (s *Server) large(op *huma.Operation) { op.Metadata[placesKey] = s.lists }

// answer is a body.
type answer[T any] struct{ Body T }

func answerOf[T any](v T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{v}, nil
}

// list is the body of every native list.
type list[T any] struct {
	Items      []T     `json:"items"`
	Count      int     `json:"count"`
	NextCursor *string `json:"next_cursor"` // null at the end
}

func listOf[T any](items []T, next string) *answer[list[T]] {
	l := list[T]{Items: items, Count: len(items)}
	if items == nil {
		l.Items = []T{}
	}
	if next != "" {
		l.NextCursor = &next
	}
	return &answer[list[T]]{l}
}

// Page selects a part of a list. Only an exported name is seen in a query.
type Page struct {
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000"`
	Cursor string `query:"cursor" maxLength:"128" doc:"next_cursor of the page before"`
}

// pageOf cuts a page out of a list in memory; its cursor is a position.
func pageOf[T any](all []T, p Page) (*answer[list[T]], error) {
	at := 0
	if p.Cursor != "" {
		n, err := strconv.ParseUint(p.Cursor, 10, 31)
		if err != nil {
			return nil, badRequest.problem("cursor: want the next_cursor of a page of this list")
		}
		at = min(int(n), len(all))
	}
	end := min(at+p.Limit, len(all))
	next := ""
	if end < len(all) {
		next = strconv.Itoa(end)
	}
	return listOf(all[at:end], next), nil
}

type none struct{}

func (s *Server) nodeRoutes() {
	operation(s, http.MethodGet, "version", open, "What this binary is", func(context.Context, *none) (*answer[parley.Version], error) {
		return &answer[parley.Version]{s.node.Version()}, nil
	})
	operation(s, http.MethodGet, "status", read, "One screen about the node", func(context.Context, *none) (*answer[parley.Status], error) {
		return &answer[parley.Status]{s.node.Status()}, nil
	})
	operation(s, http.MethodGet, "node", read, "What the node is and where it listens", func(context.Context, *none) (*answer[parley.Info], error) {
		return &answer[parley.Info]{s.node.Info()}, nil
	})
	operation(s, http.MethodGet, "topology", read, "The network as this node sees it: itself and its connected peers", func(context.Context, *none) (*answer[parley.Topology], error) {
		return &answer[parley.Topology]{s.node.Topology()}, nil
	})
	operation(s, http.MethodGet, "health", read, "Readiness, check by check", func(context.Context, *none) (*answer[parley.Health], error) {
		return &answer[parley.Health]{s.node.Health()}, nil
	})
}

func (s *Server) configRoutes() {
	operation(s, http.MethodGet, "config", admin, "Every key of the configuration, the value that acts and where it came from; secrets are masked", s.config)
	operation(s, http.MethodPatch, "config", admin, "Set keys that a running node takes over, by a merge patch; it is kept in settings.toml of the data directory until null takes it back", s.patchConfig)
	operation(s, http.MethodGet, "shared-keys", admin, "Fingerprints of the shared keys of a private network with which the node runs", func(context.Context, *none) (*answer[parley.SharedKeys], error) {
		return &answer[parley.SharedKeys]{s.node.SharedKeys()}, nil
	})
	operation(s, http.MethodPost, "config/reload", admin, "Read the configuration again, and take over what can change while the node runs", s.reload)
}

func (s *Server) config(context.Context, *none) (*answer[list[config.Value]], error) {
	return listOf(s.node.ConfigValues(), ""), nil
}

type configPatch struct {
	Force bool           `query:"force" doc:"as of config/reload"`
	Body  map[string]any `doc:"keys as in a file: {\"log\":{\"level\":\"debug\"},\"api\":{\"public_read\":null}}"`
}

func (s *Server) patchConfig(ctx context.Context, in *configPatch) (*answer[parley.Reloaded], error) {
	c := callerOf(ctx)
	r, err := s.node.PatchConfig(ctx, in.Body, c.local, in.Force)
	return s.reloaded(c, r, err)
}

// reloaded has what was taken over act on the next request, whoever sends it.
func (s *Server) reloaded(c caller, r parley.Reloaded, err error) (*answer[parley.Reloaded], error) {
	if err != nil {
		return nil, reloadProblem(err)
	}
	if err := s.adopt(); err != nil {
		return nil, err
	}
	s.log.Info("configuration changed", "changed", r.Changed, "by", c.actor())
	return &answer[parley.Reloaded]{r}, nil
}

type reloadQuery struct {
	Force bool `query:"force" doc:"remove a shared key though peers would lose their last connection by that"`
}

func (s *Server) reload(ctx context.Context, in *reloadQuery) (*answer[parley.Reloaded], error) {
	r, err := s.node.ReloadConfig(ctx, in.Force)
	return s.reloaded(callerOf(ctx), r, err)
}

// reloadProblem tells each fault of a configuration by itself.
func reloadProblem(err error) error {
	var bad *parley.ConfigError
	var used *parley.KeyInUseError
	var faults *config.FaultsError
	var overridden *parley.OverriddenError
	switch {
	case errors.As(err, &overridden):
		return conflict.problem("nothing has changed: " + err.Error())
	case errors.Is(err, parley.ErrFileKey):
		return scopeProblem("nothing has changed: " + err.Error())
	case errors.As(err, &bad) && errors.As(err, &faults):
		p := invalid.problem("the configuration is wrong, and nothing has changed")
		for _, f := range faults.Faults[:min(len(faults.Faults), maxFaults)] {
			p.Errors = append(p.Errors, &huma.ErrorDetail{Message: f.String()})
		}
		if more := len(faults.Faults) - maxFaults; more > 0 {
			p.Detail += fmt.Sprintf("; these are the first %d of its faults, there are %d more", maxFaults, more)
		}
		return p
	case errors.As(err, &bad):
		return invalid.problem("nothing has changed: " + bad.Error())
	case errors.As(err, &used):
		p := conflict.problem("nothing has changed: " + used.Error())
		p.Reason = "force"
		return p
	case errors.Is(err, parley.ErrNoReload):
		return conflict.problem(err.Error())
	}
	return err
}

func (s *Server) devnetRoutes() {
	operation(s, http.MethodPost, "devnet/partition", admin, "Cut this node off from the other groups; profile devnet only", func(ctx context.Context, in *struct {
		Body struct {
			Groups [][]string `json:"groups" maxItems:"100" doc:"node names"`
		}
	}) (*struct{}, error) {
		return nil, devnetFault(s.node.Partition(ctx, in.Body.Groups))
	})
	operation(s, http.MethodPost, "devnet/heal", admin, "End a partition; profile devnet only", func(context.Context, *none) (*struct{}, error) {
		return nil, s.node.Heal()
	})
}

// devnetFault makes a wrong list of groups the caller's fault.
func devnetFault(err error) error {
	if err == nil || errors.Is(err, parley.ErrNotDevnet) {
		return err
	}
	return badRequest.problem(err.Error())
}
