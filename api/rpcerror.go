package api

import (
	"errors"
	"maps"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// errorDomain says whose codes those of an ErrorInfo are.
const errorDomain = "parley"

// grpc is the problem as the error of a remote call: its PLY code, and what else
// REST tells, is in the details of google.rpc.
func (p *problem) grpc() *connect.Error {
	err := connect.NewError(p.grpcCode(), errors.New(p.Detail))
	info := &errdetails.ErrorInfo{Reason: p.Code, Domain: errorDomain, Metadata: map[string]string{"type": p.Type}}
	for key, value := range map[string]string{"reason": p.Reason, "limit": p.Limit, "class": p.Class} {
		if value != "" {
			info.Metadata[key] = value
		}
	}
	details := []proto.Message{info}
	if len(p.Errors) > 0 {
		fields := &errdetails.BadRequest{}
		for _, e := range p.Errors {
			fields.FieldViolations = append(fields.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: e.Location, Description: e.Message})
		}
		details = append(details, fields)
	}
	if p.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(p.retryAfter) * time.Second)})
	}
	for _, d := range details {
		if detail, bad := connect.NewErrorDetail(d); bad == nil { // it fails for what is no text alone
			err.AddDetail(detail)
		}
	}
	maps.Copy(err.Meta(), p.GetHeaders())
	return err
}

// grpcCode is the code of gRPC for a status of HTTP.
func (p *problem) grpcCode() connect.Code {
	switch p.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return connect.CodeInvalidArgument
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusNotFound:
		return connect.CodeNotFound
	case http.StatusConflict, http.StatusGone:
		return connect.CodeFailedPrecondition
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return connect.CodeResourceExhausted
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType, http.StatusUpgradeRequired, http.StatusNotImplemented:
		return connect.CodeUnimplemented
	case http.StatusBadGateway:
		return connect.CodeUnavailable
	case http.StatusServiceUnavailable:
		if p.Code == full.code {
			return connect.CodeResourceExhausted
		}
		return connect.CodeUnavailable
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeInternal
}

// statusOf is the other way round, for what connect finds itself.
func statusOf(c connect.Code) int {
	switch c {
	case connect.CodeResourceExhausted:
		return http.StatusRequestEntityTooLarge
	case connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	case connect.CodeUnimplemented:
		return http.StatusNotImplemented
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	case connect.CodeInternal:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// noProcedure is the problem of a call that there is not.
func noProcedure(path string) *problem {
	name := strings.TrimPrefix(path, "/")
	return notOnThisNetwork.problem("there is no call " + name[:min(len(name), 200)] + ": reflection lists what there is")
}
