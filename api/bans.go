package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

func (s *Server) banRoutes() {
	operation(s, http.MethodGet, "bans", read, "Who is banned, newest first; with all also bans that ended in the last 30 days", s.bans, s.large)
	operation(s, http.MethodPost, "bans", admin, "Ban a peer, an address or a range", s.ban, created, also(http.StatusOK))
	operation(s, http.MethodDelete, "bans", admin, "Lift all bans of an origin, or all", s.clearBans)
	operation(s, http.MethodGet, "bans/check", read, "Whether a peer or an address is banned, and by which ban", s.checkBan)
	operation(s, http.MethodGet, "bans/{target}", read, "The ban of just this target", s.banOf)
	operation(s, http.MethodDelete, "bans/{target}", admin, "Lift the bans of just this target", s.unban)
	s.raw(route{method: http.MethodGet, pattern: prefix + "bans/export", access: read, places: s.dumps, serve: s.exportBans}, huma.Operation{
		OperationID: "get-bans-export", Summary: "The bans that hold as JSON lines",
	}, form{gives: linesType})
	s.raw(route{method: http.MethodPost, pattern: prefix + "bans/import", access: admin, maxBody: maxImport, places: s.dumps, serve: s.importBans}, huma.Operation{
		OperationID: "post-bans-import", Summary: "Ban what a list names: a target a line, or JSON lines as an export has them; bad lines are left out and told",
	}, form{
		query: []*huma.Param{param("force", huma.TypeBoolean, "also those that would cut off this node's own peers")}, takes: []string{linesType, "text/plain"},
		gives: "application/json", answer: reflect.TypeFor[parley.BanImport](),
	})
}

// banProblem is nil for errors that are not about bans.
func banProblem(err error) *problem {
	var risky *parley.BanConflictError
	switch {
	case errors.As(err, &risky):
		return caution(&parley.CautionError{Flag: "force", Detail: err.Error()})
	case errors.Is(err, parley.ErrBansFull):
		p := full.problem(err.Error())
		p.Limit = "ban_list"
		return p
	case errors.Is(err, parley.ErrBadBan):
		return badRequest.problem(err.Error())
	case errors.Is(err, parley.ErrNotBanned):
		return notFound.problem(err.Error())
	}
	return nil
}

type bansQuery struct {
	Page
	Kind   string `query:"kind" enum:"peer,cidr"`
	Origin string `query:"origin" enum:"operator,auto,import"`
	All    bool   `query:"all" doc:"also bans that ended"`
}

func (s *Server) bans(_ context.Context, in *bansQuery) (*answer[list[parley.Ban]], error) {
	return pageOf(s.node.Bans(in.Kind, in.Origin, in.All), in.Page)
}

// madeBan is a ban and whom it cuts off.
type madeBan struct {
	Status int
	Body   struct {
		parley.Ban
		Closes []peer.ID `json:"closes"`
	}
}

type newBan struct {
	DryRun bool `query:"dry_run" doc:"change nothing: 200 and what would be"`
	Body   struct {
		Target  string     `json:"target" maxLength:"512" doc:"peer id, IP address or CIDR"`
		Until   *time.Time `json:"until,omitempty" doc:"null or left out, without for: bans.duration from now"`
		For     string     `json:"for,omitempty" maxLength:"32" doc:"such as 24h"`
		Forever bool       `json:"forever,omitempty"`
		Reason  string     `json:"reason,omitempty" maxLength:"64"`
		Note    string     `json:"note,omitempty" maxLength:"256"`
		Force   bool       `json:"force,omitempty" doc:"although it covers static or trusted peers, this node or very much"`
	}
}

func (s *Server) ban(ctx context.Context, in *newBan) (*madeBan, error) {
	r := parley.BanRequest{
		Target: in.Body.Target, Forever: in.Body.Forever, Reason: in.Body.Reason, Note: in.Body.Note, Force: in.Body.Force, Actor: callerOf(ctx).actor(),
	}
	if in.Body.Until != nil {
		r.Until = *in.Body.Until
	}
	if in.Body.For != "" {
		d, err := time.ParseDuration(in.Body.For)
		if err != nil || d <= 0 {
			return nil, badRequest.problem("for: want a duration above 0 such as 24h or 30m")
		}
		r.For = d
	}
	b, closes, err := s.node.Ban(ctx, r, in.DryRun)
	if err != nil {
		return nil, err
	}
	out := &madeBan{Status: http.StatusCreated}
	if in.DryRun {
		out.Status = http.StatusOK
	}
	out.Body.Ban, out.Body.Closes = b, closes
	return out, nil
}

type bansOrigin struct {
	Origin string `query:"origin" required:"true" enum:"auto,operator,import,all"`
}

func (s *Server) clearBans(ctx context.Context, in *bansOrigin) (*answer[removedBans], error) {
	n, err := s.node.ClearBans(ctx, in.Origin, callerOf(ctx).actor())
	return &answer[removedBans]{removedBans{n}}, err
}

type removedBans struct {
	Removed int `json:"removed"`
}

// banCheck is the answer to whether somebody is banned.
type banCheck struct {
	Banned bool        `json:"banned"`
	By     *parley.Ban `json:"by"` // null = not banned
}

type banTarget struct {
	Target string `query:"target" required:"true" maxLength:"512"`
}

func (s *Server) checkBan(_ context.Context, in *banTarget) (*answer[banCheck], error) {
	b, err := s.node.BanOf(in.Target)
	return &answer[banCheck]{banCheck{b != nil, b}}, err
}

// BanPath is the target that a path names, its slash as %2F.
type BanPath struct {
	Target string `path:"target" maxLength:"512"`
}

func (s *Server) banOf(_ context.Context, in *BanPath) (*answer[parley.Ban], error) {
	b, err := s.node.BanOf(in.Target)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, notFound.problem(in.Target + " is not banned")
	}
	return &answer[parley.Ban]{*b}, nil
}

func (s *Server) unban(ctx context.Context, in *BanPath) (*struct{}, error) {
	return nil, s.node.Unban(ctx, in.Target, callerOf(ctx).actor())
}

func (s *Server) exportBans(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", linesType)
	enc := json.NewEncoder(w)
	for _, b := range s.node.Bans("", "", false) {
		if err := enc.Encode(b); err != nil { // the reader is gone
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *Server) importBans(w http.ResponseWriter, r *http.Request) {
	if t := r.Header.Get("Content-Type"); !isLines(t) && !isText(t) {
		p := methodOrType.problem("want " + linesType + " or text/plain")
		p.Status = http.StatusUnsupportedMediaType
		s.refuse(w, r, p)
		return
	}
	body, p := s.wholeBody(w, r)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	sum, err := s.takeBans(r.Context(), body, r.URL.Query().Get("force") == "true")
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, sum)
}

func (s *Server) takeBans(ctx context.Context, list io.Reader, force bool) (parley.BanImport, error) {
	sum, err := s.node.ImportBans(ctx, list, callerOf(ctx).actor(), force)
	if err == nil {
		s.log.Info("bans imported", "added", sum.Added, "known", sum.Known, "refused", sum.RefusedLines)
	}
	return sum, err
}
