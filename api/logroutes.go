package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const followersAtOnce = 16 // of the log

func (s *Server) logRoutes() {
	operation(s, http.MethodGet, "log-levels", admin, "What each room logs; default is for all that are not named", func(context.Context, *none) (*answer[map[string]string], error) {
		if s.lines == nil {
			return nil, notOnThisNetwork.problem(noLog)
		}
		return &answer[map[string]string]{s.lines.levels.Load().view()}, nil
	})
	operation(s, http.MethodPut, "log-levels", admin, "Change what each room logs until the node starts again", s.setLogLevels)
	s.raw(route{method: http.MethodGet, pattern: prefix + "logs", access: admin, stream: true, serve: s.logLines},
		huma.Operation{OperationID: "get-logs", Summary: "The log as it is written, as server-sent events"},
		form{query: []*huma.Param{param("last", huma.TypeInteger, "so many lines first"), param("token", huma.TypeString, "in place of the header")}, gives: streamType})
}

type newLevels struct {
	Body map[string]string `doc:"debug, info, warn or error by room: {\"default\":\"info\",\"p2p.gossip\":\"debug\"}"`
}

func (s *Server) setLogLevels(ctx context.Context, in *newLevels) (*answer[map[string]string], error) {
	if s.lines == nil {
		return nil, notOnThisNetwork.problem(noLog)
	}
	text, err := levelText(in.Body)
	if err == nil {
		err = s.lines.SetLevel(text)
	}
	if err != nil {
		return nil, invalid.problem(err.Error())
	}
	s.log.Info("log levels changed", "levels", text, "by", callerOf(ctx).actor())
	return &answer[map[string]string]{s.lines.levels.Load().view()}, nil
}

const noLog = "this node runs within a program that keeps its log to itself"

// logLines streams the log.
func (s *Server) logLines(w http.ResponseWriter, r *http.Request) {
	if s.lines == nil {
		s.refuse(w, r, notOnThisNetwork.problem(noLog))
		return
	}
	last := 0
	if text := r.URL.Query().Get("last"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n > lastLines {
			s.refuse(w, r, badRequest.problem(fmt.Sprintf("last=%.20s: want a number of lines up to %d", text, lastLines)))
			return
		}
		last = int(n)
	}
	leave := s.readers.take(r.Context(), callerOf(r.Context()), remoteAddr(r))
	if leave == nil {
		p := rateLimited.problem(s.readers.busy)
		p.refused = "busy"
		s.refuse(w, r, p)
		return
	}
	defer leave()
	f := s.lines.follow(last)
	defer s.lines.leave(f)
	out := newSSE(w)
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	stay, part := s.stay(callerOf(r.Context()), nil)
	defer part()
	for out.flush() {
		select {
		case <-r.Context().Done():
			return
		case <-s.hub.stopCh:
			return
		case <-stay.over:
			out.write(": " + stay.why.Error() + "\n\n")
			return
		case <-tick.C:
			out.write(": ping\n\n")
		case <-f.wake:
			lines, lost := s.lines.take(f)
			for _, line := range lines {
				if s.leaving(stay) {
					break
				}
				out.write("event: log\ndata: " + string(line) + "\n\n")
			}
			if lost > 0 {
				out.write(fmt.Sprintf("event: lagged\ndata: {\"lost\":%d}\n\n", lost))
			}
		}
	}
}
