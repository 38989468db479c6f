package consortium

import (
	"fmt"
	"net/http"
)

// Reason says why a record is refused. The names are API.
type Reason string

// The closed set of reasons.
const (
	Malformed     Reason = "malformed"      // does not decode, or a config that breaks a rule
	TooLarge      Reason = "too_large"      // record or body over its limit
	BadSubject    Reason = "bad_subject"    // length, UTF-8, control character, space at an end
	BadMediaType  Reason = "bad_media_type" // length, not printable ASCII, not one slash
	BadSignature  Reason = "bad_signature"  // the author did not sign this for this chain
	UnknownAuthor Reason = "unknown_author" // the policy is "listed" and the author is not
	NotAuthorised Reason = "not_authorised" // a config without enough approvals
	Duplicate     Reason = "duplicate"      // committed already; no fault
	Expired       Reason = "expired"        // not_after has passed
	StaleConfig   Reason = "stale_config"   // a config whose epoch does not follow the current one
	MempoolFull   Reason = "mempool_full"
	AuthorLimit   Reason = "author_limit"
	RateLimited   Reason = "rate_limited"
	DiskLow       Reason = "disk_low"
	Syncing       Reason = "syncing"
	ShuttingDown  Reason = "shutting_down"
)

// Reasons lists the set, for labels.
var Reasons = []Reason{
	Malformed, TooLarge, BadSubject, BadMediaType, BadSignature, UnknownAuthor, NotAuthorised, Duplicate, Expired, StaleConfig,
	MempoolFull, AuthorLimit, RateLimited, DiskLow, Syncing, ShuttingDown,
}

// HTTPStatus is the status of an answer with this reason; 429 and 503 go with
// Retry-After. A Reason outside the set gives 500.
func (r Reason) HTTPStatus() int {
	switch r {
	case Duplicate:
		return http.StatusOK
	case Malformed, BadSubject, BadMediaType, BadSignature:
		return http.StatusBadRequest
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case UnknownAuthor, NotAuthorised:
		return http.StatusForbidden
	case Expired, StaleConfig:
		return http.StatusConflict
	case AuthorLimit, RateLimited:
		return http.StatusTooManyRequests
	case MempoolFull, DiskLow, Syncing, ShuttingDown:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// RecordError says why a record is refused.
type RecordError struct {
	Reason Reason
	Detail string // for people; names the thing, its value and the mend
}

func (e *RecordError) Error() string { return string(e.Reason) + ": " + e.Detail }

// Refuse returns a *RecordError.
func Refuse(r Reason, format string, args ...any) error {
	return &RecordError{Reason: r, Detail: fmt.Sprintf(format, args...)}
}
