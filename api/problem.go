package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

// problem is an error of a native route, by RFC 9457.
type problem struct {
	Type     string              `json:"type"`
	Title    string              `json:"title"`
	Status   int                 `json:"status"`
	Detail   string              `json:"detail,omitempty"`
	Instance string              `json:"instance,omitempty"`
	Code     string              `json:"code"`
	Reason   string              `json:"reason,omitempty"` // of a refused record; the flag that a refused change lacks
	Limit    string              `json:"limit,omitempty"`  // what is full
	Class    string              `json:"class,omitempty"`  // of a failed dial
	Errors   []*huma.ErrorDetail `json:"errors,omitempty"`

	retryAfter int    // seconds, 0 = no such header
	refused    string // why, as counted; "" = not counted
}

func (p *problem) Error() string { return p.Detail }

// GetStatus implements [huma.StatusError].
func (p *problem) GetStatus() int { return p.Status }

// ContentType implements [huma.ContentTypeFilter].
func (p *problem) ContentType(string) string { return problemType }

// GetHeaders implements [huma.HeadersError].
func (p *problem) GetHeaders() http.Header {
	if p.retryAfter == 0 {
		return nil
	}
	return http.Header{"Retry-After": {strconv.Itoa(p.retryAfter)}}
}

const problemType = "application/problem+json"

// kind is one row of the table of errors.
type kind struct {
	code, slug, title string
	status            int
}

var (
	internalError    = kind{"PLY-001", "internal", "Internal error", http.StatusInternalServerError}
	badRequest       = kind{"PLY-002", "bad-request", "Bad request", http.StatusBadRequest}
	invalid          = kind{"PLY-003", "invalid", "Invalid request", http.StatusUnprocessableEntity}
	unauthenticated  = kind{"PLY-004", "unauthenticated", "Token needed", http.StatusUnauthorized}
	forbidden        = kind{"PLY-005", "forbidden", "Forbidden", http.StatusForbidden}
	notFound         = kind{"PLY-006", "not-found", "Not found", http.StatusNotFound}
	conflict         = kind{"PLY-007", "conflict", "Conflict", http.StatusConflict}
	tooLarge         = kind{"PLY-008", "too-large", "Too large", http.StatusRequestEntityTooLarge}
	methodOrType     = kind{"PLY-009", "method-or-type", "Method or media type not allowed", http.StatusMethodNotAllowed}
	rateLimited      = kind{"PLY-010", "rate-limited", "Too many requests", http.StatusTooManyRequests}
	notOnThisNetwork = kind{"PLY-011", "not-on-this-network", "Not on this network", http.StatusNotImplemented}
	notReady         = kind{"PLY-012", "not-ready", "Not ready", http.StatusServiceUnavailable}
	tokensOff        = kind{"PLY-013", "tokens-off", "Tokens are off", http.StatusServiceUnavailable}
	full             = kind{"PLY-014", "full", "Full", http.StatusServiceUnavailable}
	timedOut         = kind{"PLY-015", "timeout", "Timed out", http.StatusGatewayTimeout}
	dialFailed       = kind{"PLY-016", "dial-failed", "Dial failed", http.StatusBadGateway}
	recordRefused    = kind{"PLY-017", "record-refused", "Record refused", http.StatusBadRequest}
)

const retrySoon = 1 // seconds

func (k kind) problem(detail string) *problem {
	p := &problem{Type: "urn:parley:error:" + k.slug, Title: k.title, Status: k.status, Detail: detail, Code: k.code}
	if k.status == http.StatusServiceUnavailable || k.status == http.StatusTooManyRequests {
		p.retryAfter = retrySoon
	}
	return p
}

// kindOf finds the row for a status that huma or the mux chose.
func kindOf(status int) kind {
	switch status {
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType, http.StatusUpgradeRequired:
		return methodOrType
	case http.StatusRequestTimeout:
		return timedOut
	}
	for _, k := range []kind{badRequest, invalid, unauthenticated, forbidden, notFound, conflict, tooLarge, rateLimited, notOnThisNetwork, notReady, timedOut, dialFailed} {
		if k.status == status {
			return k
		}
	}
	if status >= 400 && status < 500 {
		return badRequest
	}
	return internalError
}

// init gives huma's own errors our form; huma has no other door for that.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		p := kindOf(status).problem(msg)
		if status >= 400 {
			p.Status = status
		}
		faults := invalidFor(p, errs...)
		if msg != "validation failed" { // which says nothing that they do not
			faults.Detail = msg
		}
		return faults
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		if status == http.StatusRequestEntityTooLarge {
			return bodyTooLarge(ctx.Operation().MaxBodyBytes - humaSpare)
		}
		return huma.NewError(status, msg, errs...)
	}
}

// invalidFor lists faults, and names the first one in words: many look no
// further than detail.
func invalidFor(p *problem, faults ...error) *problem {
	for _, err := range faults {
		var d huma.ErrorDetailer
		switch {
		case errors.As(err, &d):
			p.Errors = append(p.Errors, bounded(d.ErrorDetail()))
		case err != nil:
			p.Errors = append(p.Errors, &huma.ErrorDetail{Message: err.Error()})
		}
	}
	if len(p.Errors) == 0 {
		return p
	}
	p.Detail = firstFault(p.Errors)
	if p.Status == http.StatusUnsupportedMediaType {
		p.Detail += ": send Content-Type: application/json"
	}
	return p
}

func firstFault(faults []*huma.ErrorDetail) string {
	text := faults[0].Message
	if faults[0].Location != "" {
		text = faults[0].Location + ": " + text
	}
	if more := len(faults) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// bodyTooLarge says what a route takes, and what to do.
func bodyTooLarge(limit int64) *problem {
	mend := "send less"
	switch limit {
	case maxRecordBody:
		mend = fmt.Sprintf("the body of a record has at most %d bytes; of larger data record the hash", consortium.MaxBody)
	case maxBatchBody:
		mend = "send the lines in several requests"
	}
	return tooLarge.problem(fmt.Sprintf("the request is over its limit of %d bytes: %s", limit, mend))
}

// bounded keeps an answer from echoing a whole body.
func bounded(d *huma.ErrorDetail) *huma.ErrorDetail {
	const most = 200
	b, err := json.Marshal(d.Value)
	if err != nil || len(b) > most {
		d.Value = nil
	}
	d.Location = strings.ToValidUTF8(d.Location[:min(most, len(d.Location))], "")
	return d
}

// problemOf tells whose fault an error of the node's face is.
func (s *Server) problemOf(err error) *problem {
	var p *problem
	var bad *consortium.RecordError
	var large *http.MaxBytesError
	var risky *parley.CautionError
	switch {
	case errors.As(err, &p):
		return p
	case peerProblem(err) != nil:
		return peerProblem(err)
	case dhtProblem(err) != nil:
		return dhtProblem(err)
	case programProblem(err) != nil:
		return programProblem(err)
	case banProblem(err) != nil:
		return banProblem(err)
	case errors.As(err, &risky):
		return caution(risky)
	case errors.As(err, &bad):
		p = recordRefused.problem(bad.Detail)
		p.Reason, p.Status = string(bad.Reason), bad.Reason.HTTPStatus()
		if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
			p.retryAfter = retrySoon
		}
		return p
	case errors.As(err, &large):
		return bodyTooLarge(large.Limit)
	case errors.Is(err, parley.ErrNotFound), errors.Is(err, parley.ErrNotDevnet):
		return notFound.problem(err.Error())
	case errors.Is(err, parley.ErrBadRange), errors.Is(err, parley.ErrBadRef), errors.Is(err, parley.ErrBadChange), errors.Is(err, parley.ErrBadImport):
		return badRequest.problem(err.Error())
	case errors.Is(err, parley.ErrBackupRuns):
		return conflict.problem(err.Error())
	case errors.Is(err, parley.ErrNoChain):
		return notReady.problem(err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return timedOut.problem(err.Error())
	}
	s.log.Error("request failed", "err", err)
	return internalError.problem("the node could not answer; its log says why")
}

// refuse answers with p in the shape of the route's system.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, p *problem) {
	if p.refused != "" {
		s.metrics.refused.WithLabelValues(p.refused).Inc()
	}
	maps.Copy(w.Header(), p.GetHeaders())
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="parley", Basic realm="parley"`)
	}
	if isGRPC(r) {
		s.refuseGRPC(w, r, p)
		return
	}
	switch path := r.URL.Path; {
	case isRPC(r):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(p.Status)
		_, _ = w.Write(rpcErrorBody(nil, rpcErrorOf(p)))
	case strings.HasPrefix(path, "/eth/"), strings.HasPrefix(path, "/prysm/"):
		writeJSON(w, p.Status, beaconError{Code: p.Status, Message: p.Detail})
	case path != "/api/v1" && !strings.HasPrefix(path, "/api/v1/") && (strings.HasPrefix(path, "/api/") || path == "/health"):
		writeJSON(w, p.Status, provchainError{
			Error: strings.ReplaceAll(strings.TrimPrefix(p.Type, "urn:parley:error:"), "-", "_"), Message: p.Detail, Timestamp: stamp(time.Now()),
		})
	default:
		p.Instance = path
		w.Header().Set("Content-Type", problemType)
		writeBody(w, p.Status, p)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, status, v)
}

func writeBody(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = huma.DefaultJSONFormat.Marshal(w, v) // the client is gone
}

// stamp writes a time as every JSON answer has it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
