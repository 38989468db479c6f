package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strings"

	"github.com/ethereum/go-ethereum/rpc"
)

const (
	maxRPCBody   = 1 << 20        // bytes of one message
	maxRPCBatch  = 100            // calls in one message
	maxRPCName   = 128            // bytes of a method's name, of which more are not looked at
	maxRPCAnswer = 8 << 20        // bytes of the answers to one batch
	rpcSpare     = 64 << 10       // bytes by which a message may grow when names are made whole
	bitcoin      = "bitcoin"      // service of the methods whose names have no service
	rpcDenied    = "rpc_denied"   // answers that the caller has no right
	jsonrpcFalse = "\x00 no JSON" // what the library answers with a parse error
)

// Codes of JSON-RPC errors. Those of the library stand beside them: -32700 no
// JSON, -32600 no request, -32601 no such method, -32602 bad parameters.
const (
	rpcFailed       = -32000
	rpcUnauthorized = -32001
	rpcBadRequest   = -32600
	rpcBadParams    = -32602
	rpcTooMany      = -32005
)

// rpcError is an error of a method: the code of our own table is in its data.
type rpcError struct {
	code int
	text string
	data rpcErrorData
}

type rpcErrorData struct {
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	Reason string `json:"reason,omitempty"`
	Class  string `json:"class,omitempty"`
}

func (e *rpcError) Error() string { return e.text }

// ErrorCode implements [rpc.Error].
func (e *rpcError) ErrorCode() int { return e.code }

// ErrorData implements [rpc.DataError].
func (e *rpcError) ErrorData() any { return e.data }

// rpcErrorOf is the form of a problem on JSON-RPC.
func rpcErrorOf(p *problem) *rpcError {
	e := &rpcError{rpcFailed, p.Detail, rpcErrorData{Code: p.Code, Reason: p.Reason, Class: p.Class}}
	switch p.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.code, e.text, e.data.Detail = rpcUnauthorized, "unauthorized", p.Detail
	case http.StatusTooManyRequests:
		e.code = rpcTooMany
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		e.code = rpcBadRequest
	}
	return e
}

// rpcFault is what a method answers with an error of the face.
func (s *Server) rpcFault(err error) error {
	var own *rpcError
	if err == nil || errors.As(err, &own) {
		return err
	}
	e := rpcErrorOf(s.problemOf(err))
	if e.code == rpcBadRequest {
		e.code = rpcBadParams
	}
	return e
}

func badParams(text string) error {
	return &rpcError{rpcBadParams, text, rpcErrorData{Code: badRequest.code}}
}

// rpcAccess is what each method asks of its caller. A test holds it against the
// methods that there are.
var rpcAccess = map[string]access{
	"rpc_modules": read, rpcDenied: read,
	"web3_clientVersion": read,
	"net_peerCount":      read, "net_listening": read, "net_version": read,
	"eth_blockNumber": read, "eth_chainId": read, "eth_syncing": read, "eth_getBlockByNumber": read,
	"parley_status": read, "parley_peers": read, "parley_chain": read, rpcSubscribe: read, rpcUnsubscribe: read,
	"admin_peers": admin, "admin_nodeInfo": admin, "admin_datadir": admin,
	"admin_addPeer": admin, "admin_removePeer": admin, "admin_addTrustedPeer": admin, "admin_removeTrustedPeer": admin,
	"bitcoin_getpeerinfo": read, "bitcoin_getconnectioncount": read, "bitcoin_getnetworkinfo": read, "bitcoin_listbanned": read, "bitcoin_isbanned": read,
	"bitcoin_addnode": admin, "bitcoin_disconnectnode": admin, "bitcoin_setban": admin, "bitcoin_clearbanned": admin,
}

// rpcServices are the receivers of the methods, by service.
func (s *Server) rpcServices() map[string]any {
	return map[string]any{
		"rpc": &rpcMeta{s}, "web3": &rpcWeb3{s}, "net": &rpcNet{s}, "eth": &rpcEth{s}, "admin": &rpcAdmin{s}, "parley": &rpcParley{s}, bitcoin: &rpcBitcoin{s},
	}
}

// rpcRoutes serve JSON-RPC on the API's port; the local socket has it too.
func (s *Server) rpcRoutes() error {
	s.rpc = rpc.NewServer()
	s.rpc.SetBatchLimits(maxRPCBatch, maxRPCAnswer)
	s.rpc.SetHTTPBodyLimit(maxRPCBody + rpcSpare)
	for name, service := range s.rpcServices() {
		if err := s.rpc.RegisterName(name, service); err != nil {
			return err
		}
	}
	if st := s.node.Status(); st.Head != nil {
		s.rpcFrom = st.Head.Height
	}
	for _, pattern := range []string{"/rpc", "/{$}"} {
		s.handle(route{method: http.MethodPost, pattern: pattern, access: read, maxBody: maxRPCBody, serve: s.rpcPost})
		s.handle(route{method: http.MethodGet, pattern: pattern, access: read, stream: true, serve: s.rpcSocket})
	}
	return nil
}

// isRPC tells whether the answer to r has the shape of JSON-RPC.
func isRPC(r *http.Request) bool {
	return r.URL.Path == "/rpc" || r.URL.Path == "/" && r.Method == http.MethodPost
}

// rpcType tells whether a message is of a type that no page of another host can
// have a browser send unasked. bitcoin's clients send text/plain or none: that is
// taken of who says who he is and is no browser, which might add a password that
// it remembers, and by the local socket, to which no page gets.
func rpcType(r *http.Request) bool {
	text := r.Header.Get("Content-Type")
	t, _, err := mime.ParseMediaType(text)
	if err == nil && t == "application/json" {
		return true
	}
	browser := r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
	known := r.Header.Get("Authorization") != "" && !browser || callerOf(r.Context()).local
	return known && (text == "" || err == nil && t == "text/plain")
}

func (s *Server) rpcPost(w http.ResponseWriter, r *http.Request) {
	if !rpcType(r) {
		p := methodOrType.problem("want Content-Type application/json; with an Authorization header text/plain too, or none")
		p.Status = http.StatusUnsupportedMediaType
		s.refuse(w, r, p)
		return
	}
	body, p := s.wholeBody(w, r)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	b, err := io.ReadAll(body)
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	call := readRPC(b)
	if err := s.rpcPace(r.Context(), remoteAddr(r), call.calls-1); err != nil { // one is counted as a request
		s.refuse(w, r, s.problemOf(err))
		return
	}
	answer := s.rpcAnswer(r.Context(), call)
	if len(answer) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the client is gone
}

// rpcPace waits until the address may make n more calls, of which a batch is
// many.
func (s *Server) rpcPace(ctx context.Context, addr netip.Addr, n int) error {
	c := callerOf(ctx)
	if c.free || n <= 0 {
		return nil
	}
	return s.live.Load().limits.wait(ctx, addr, c.token, n)
}

// rpcMessage is one call, in the fields that count.
type rpcMessage struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"` // absent = nobody waits for the answer
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// rpcCall is what one message asks for.
type rpcCall struct {
	list  []rpcMessage
	batch bool
	calls int
	fault *rpcError // nothing is carried out
	junk  bool      // no JSON at all
}

// readRPC reads a message of at most maxRPCBody bytes. It takes no more memory
// than a batch of maxRPCBatch needs.
func readRPC(b []byte) rpcCall {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '[' {
		m, ok := readRPCMessage(b)
		return rpcCall{list: []rpcMessage{m}, calls: 1, junk: !ok}
	}
	c := rpcCall{batch: true}
	dec := json.NewDecoder(bytes.NewReader(b))
	_, _ = dec.Token() // the bracket
	for dec.More() {
		if c.calls++; c.calls > maxRPCBatch {
			c.fault = &rpcError{rpcBadRequest, "batch too large: send at most 100 calls at once", rpcErrorData{Code: tooLarge.code}}
			return c
		}
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			c.junk = true
			return c
		}
		m, _ := readRPCMessage(raw) // it is JSON
		c.list = append(c.list, m)
	}
	_, err := dec.Token() // the other bracket
	_, end := dec.Token()
	c.junk = err != nil || !errors.Is(end, io.EOF)
	return c
}

// readRPCMessage reads one call. JSON that is no call becomes a message that
// the library refuses. Versions 1.0 and 1.1, and none, are read as 2.0.
func readRPCMessage(b []byte) (m rpcMessage, ok bool) {
	if !json.Valid(b) {
		return m, false
	}
	if json.Unmarshal(b, &m) != nil {
		return rpcMessage{Version: "2.0"}, true
	}
	switch m.Version {
	case "", "1.0", "1.1", "2.0":
		m.Version = "2.0"
	default:
		m.Version = "unknown"
	}
	m.Method = m.Method[:min(len(m.Method), maxRPCName)] // no method is so long; what is no UTF-8 would grow
	if m.Method != "" && !strings.Contains(m.Method, "_") {
		m.Method = bitcoin + "_" + m.Method
	}
	return m, true
}

// rpcAnswer carries a message out; no bytes = no answer is due.
func (s *Server) rpcAnswer(ctx context.Context, call rpcCall) []byte {
	switch {
	case call.junk:
		return s.rpcServe(ctx, []byte(jsonrpcFalse))
	case call.fault != nil:
		return rpcErrorBody(nil, call.fault)
	}
	for i, m := range call.list {
		if s.rpcPermit(ctx, m.Method) != nil {
			call.list[i].Method, call.list[i].Params = rpcDenied, nil
		}
	}
	var out any = call.list
	if !call.batch {
		out = call.list[0]
	} else if call.list == nil {
		out = []rpcMessage{}
	}
	b := &bytes.Buffer{}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false) // else it could grow sixfold
	if err := enc.Encode(out); err != nil {
		return s.rpcServe(ctx, []byte(jsonrpcFalse))
	}
	return s.rpcServe(ctx, b.Bytes())
}

// rpcPermit tells whether the caller may use a method; nil = yes. What is no
// method is left to the library.
func (s *Server) rpcPermit(ctx context.Context, method string) *problem {
	need, known := rpcAccess[method]
	if !known {
		return nil
	}
	return s.permit(s.still(callerOf(ctx)), need)
}

// rpcServe has the library carry out a message.
func (s *Server) rpcServe(ctx context.Context, b []byte) []byte {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader(b))
	if err != nil {
		return nil // the address is a good one
	}
	r.Header.Set("Content-Type", "application/json")
	w := &rpcBuffer{header: http.Header{}}
	s.rpc.ServeHTTP(w, r)
	return bytes.TrimSpace(w.Bytes())
}

// rpcBuffer keeps an answer of the library.
type rpcBuffer struct {
	bytes.Buffer
	header http.Header
}

func (b *rpcBuffer) Header() http.Header { return b.header }
func (b *rpcBuffer) WriteHeader(int)     {}

// rpcErrorBody is an error to a call, nil = to nobody in particular.
func rpcErrorBody(id json.RawMessage, e *rpcError) []byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	b, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": e.code, "message": e.text, "data": e.data},
	})
	if err != nil {
		return nil // an id is JSON: it was read as such
	}
	return b
}
