package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
)

func newFrame(seq uint64, name string, data []byte) frame {
	return frame{seq: seq, name: name, data: data, grpc: sync.OnceValues(func() (*pb.Watched, error) { return watched(seq, data) })}
}

// watched makes a message of an event, or of what is told beside events.
func watched(seq uint64, data []byte) (*pb.Watched, error) {
	name := "event"
	if seq == 0 {
		var m struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, fmt.Errorf("message of the stream: %w", err)
		}
		name, data = m.Type, m.Data
	}
	b := append(append([]byte(`{"`+name+`":`), data...), '}')
	var w pb.Watched
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%s as a message: %w", name, err)
	}
	return &w, nil
}

// watch is the event stream; the hub decides who is too slow.
func (s *Server) watch(ctx context.Context, types []string, since *uint64, to *connect.ServerStream[pb.Watched]) error {
	after := ""
	if since != nil {
		after = strconv.FormatUint(*since, 10)
	}
	c, p := s.enter(callOf(ctx).r, "grpc", strings.Join(types, ","), after)
	if p != nil {
		return p
	}
	defer s.hub.leave(c.queue, c.ip)
	frames := c.first
	for {
		for _, f := range frames {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			m, err := f.grpc()
			if err != nil {
				return err
			}
			if err := to.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.queue.wake:
		}
		var slow bool
		if frames, slow = c.queue.take(time.Now()); slow {
			return rateLimited.problem("too slow: events were dropped for this client again and again; ask for fewer types, or read faster")
		}
	}
}
