package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
)

const (
	watchersAtOnce = 64
	lookEvery      = time.Second // how stale the health of a watched node may be
	reflectsAtOnce = 16
	reflectLimit   = time.Minute // of one client's questions about the services
)

// standardServices are those that every gRPC server is expected to have: health
// for probes, as /readyz, and the description of the services, as /openapi.json.
func (s *Server) standardServices() {
	watchers := newSlots(watchersAtOnce, listWait, "too many watch the health, or one does from this address: use Check")
	readers := newSlots(reflectsAtOnce, listWait, "too many read the description of the services, or one does from this address: try again")
	grpcService(s, grpchealth.NewHandler, grpchealth.Checker(health{s}), map[string]grpcRule{
		"Check": {access: open, maxBody: 4 << 10},
		"Watch": {access: open, maxBody: 4 << 10, places: watchers, stream: true},
	})
	reflector := grpcreflect.NewReflector(namer{s})
	ask := map[string]grpcRule{"ServerReflectionInfo": {access: open, maxBody: 16 << 10, places: readers, stream: true, atMost: reflectLimit}}
	grpcService(s, grpcreflect.NewHandlerV1, reflector, ask)
	grpcService(s, grpcreflect.NewHandlerV1Alpha, reflector, ask)
}

type namer struct{ *Server }

func (s namer) Names() []string { return slices.Sorted(slices.Values(s.services)) }

// health is readiness for probes that speak gRPC. All services are as ready as
// the node is.
type health struct{ *Server }

func (s health) Check(_ context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && !slices.Contains(s.services, r.Service) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no service %.100q", r.Service))
	}
	if s.node.Health().Status == "ready" {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
}

// Watch looks again and again: readiness has no event of its own.
func (s health) Watch(ctx context.Context, r *grpchealth.CheckRequest, onChange func()) (stop func(), err error) {
	last, err := s.Check(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now, err := s.Check(ctx, r); err == nil && now.Status != last.Status {
				last = now
				onChange()
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}
