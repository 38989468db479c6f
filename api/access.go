package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// access is what a route asks of its caller.
type access int

const (
	open    access = iota + 1 // nothing
	read                      // scope read, or nothing while api.public_read
	anybody                   // a token of any scope
	admin                     // scope admin
)

// caller is who sent a request. The zero caller has no token.
type caller struct {
	token bool // or a unix socket
	admin bool
	free  bool   // of limits per address: loopback or a unix socket
	local bool   // by a unix socket: the node's own user
	need  access // of the route
	sub   string // of the token

	until time.Time // end of the token, zero = none
	text  string    // the token, "" = none
	under *live     // what it was judged by
}

// actor names the caller in what outlives the request.
func (c caller) actor() string {
	const most = 40 // bytes
	switch {
	case c.local:
		return "local"
	case c.sub != "":
		return "token:" + strings.ToValidUTF8(c.sub[:min(most, len(c.sub))], "")
	}
	return "token"
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

const (
	minSecret   = 32 // bytes
	tokenLeeway = time.Minute
	maxLifetime = 8760 * time.Hour
)

// claims of a token. Role is ProvChain's; scope goes before it.
type claims struct {
	Scope string `json:"scope,omitempty"`
	Role  string `json:"role,omitempty"`
	jwt.RegisteredClaims
}

// NewToken makes a token of scope read or admin for ttl, at most 8760 h,
// signed with the first secret that cfg names.
func NewToken(cfg config.Config, sub, scope string, ttl time.Duration) (string, error) {
	if scope != "read" && scope != "admin" {
		return "", fmt.Errorf("scope %q: want read or admin", scope)
	}
	if ttl <= 0 || ttl > maxLifetime {
		return "", fmt.Errorf("lifetime (--ttl) %s: want more than 0 and at most %s", ttl, maxLifetime)
	}
	secrets, err := parley.ReadTokenSecrets(cfg)
	if err != nil {
		return "", err
	}
	if len(secrets) == 0 {
		return "", fmt.Errorf("no token secret of at least %d bytes [PLY-013]: see api.jwt_secret_file", minSecret)
	}
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{Scope: scope, RegisteredClaims: jwt.RegisteredClaims{
		Subject: sub, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
	}})
	return t.SignedString(secrets[0])
}

// TokenInfo is what a token says of itself.
type TokenInfo struct {
	Subject   string    `json:"sub"`
	Scope     string    `json:"scope"` // read or admin; "" = neither
	IssuedAt  time.Time `json:"iat,omitzero"`
	ExpiresAt time.Time `json:"exp,omitzero"`
}

// ReadToken reads a token without a look at who signed it.
func ReadToken(text string) (TokenInfo, error) {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(text, &c); err != nil {
		return TokenInfo{}, errors.New("that is no token: want a JWT, three parts with dots between them")
	}
	info := TokenInfo{Subject: strings.ToValidUTF8(c.Subject, ""), Scope: c.Scope}
	switch {
	case c.Scope == "" && c.Role == "admin":
		info.Scope = "admin"
	case c.Scope == "" && c.Role != "":
		info.Scope = "read"
	}
	if c.IssuedAt != nil {
		info.IssuedAt = c.IssuedAt.UTC()
	}
	if c.ExpiresAt != nil {
		info.ExpiresAt = c.ExpiresAt.UTC()
	}
	return info, nil
}

// CheckToken tells why a node with this configuration would refuse a token; nil
// = it would not.
func CheckToken(cfg config.Config, text string) error {
	secrets, err := parley.ReadTokenSecrets(cfg)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		return tokensOffProblem()
	}
	_, err = parseToken(secrets, text)
	return err
}

// authenticate finds out who sends r. It refuses a token that does not hold,
// even where none is needed.
func (s *Server) authenticate(r *http.Request, queryToken bool) (caller, *problem) {
	text := tokenOf(r, queryToken)
	if text == "" {
		return caller{}, nil
	}
	now := s.live.Load()
	if len(now.secrets) == 0 {
		return caller{}, tokensOffProblem()
	}
	c, err := parseToken(now.secrets, text)
	if err != nil {
		p := unauthenticated.problem(err.Error())
		p.refused = "token"
		return caller{}, p
	}
	c.text, c.under = text, now
	return c, nil
}

// still is who c is now: a connection may outlive its token, and the secret that
// signed it.
func (s *Server) still(c caller) caller {
	gone := !c.until.IsZero() && time.Now().After(c.until.Add(tokenLeeway))
	if now := s.live.Load(); !gone && c.text != "" && now != c.under {
		_, err := parseToken(now.secrets, c.text)
		gone = err != nil
	}
	if gone {
		return caller{free: c.free}
	}
	return c
}

func tokensOffProblem() *problem {
	p := tokensOff.problem("no token can be checked: this node has no secret of at least 32 bytes; see api.jwt_secret_file and JWT_SECRET")
	p.refused = "tokens_off"
	return p
}

func tokenOf(r *http.Request, queryToken bool) string {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "bearer"):
		return strings.TrimSpace(rest)
	case strings.EqualFold(scheme, "basic"):
		_, password, _ := r.BasicAuth()
		return password
	case queryToken:
		return r.URL.Query().Get("token")
	}
	return ""
}

func parseToken(secrets [][]byte, text string) (caller, error) {
	var c claims
	keys := jwt.VerificationKeySet{}
	for _, secret := range secrets {
		keys.Keys = append(keys.Keys, secret)
	}
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding(),
	).ParseWithClaims(text, &c, func(t *jwt.Token) (any, error) {
		if _, is := t.Header["crit"]; is {
			return nil, errCrit
		}
		return keys, nil
	})
	if err != nil {
		return caller{}, tokenFault(err)
	}
	from := time.Now().Add(tokenLeeway)
	if c.IssuedAt != nil {
		from = c.IssuedAt.Time
	}
	if c.ExpiresAt.Sub(from) > maxLifetime {
		return caller{}, errors.New("the token lives longer than 8760 h")
	}
	switch {
	case c.Scope == "admin", c.Scope == "" && c.Role == "admin":
		return caller{token: true, admin: true, sub: c.Subject, until: c.ExpiresAt.Time}, nil
	case c.Scope == "read", c.Scope == "" && c.Role != "":
		return caller{token: true, sub: c.Subject, until: c.ExpiresAt.Time}, nil
	}
	return caller{}, errors.New("the token has neither scope read nor admin")
}

// errCrit: RFC 7515 4.1.11, an extension that MUST be understood, of which there is none here.
var errCrit = errors.New("the token's header has crit: no extension of tokens is known here")

// tokenFault says what a client needs to know, and nothing of the token.
func tokenFault(err error) error {
	switch {
	case errors.Is(err, errCrit):
		return errCrit
	case errors.Is(err, jwt.ErrTokenExpired):
		return errors.New("the token has expired")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return errors.New("the token has no exp")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return errors.New("the token is not valid yet: compare the clocks")
	}
	return errors.New("the token does not hold: want a JWT by HS256 with this node's secret")
}

// permit tells whether c may use a route; nil = yes.
func (s *Server) permit(c caller, a access) *problem {
	need, scope := "a token", ""
	switch {
	case a == open, c.admin, a == read && (c.token || s.live.Load().publicRead), a == anybody && c.token:
		return nil
	case c.token:
		return scopeProblem("this needs a token of scope admin")
	case len(s.live.Load().secrets) == 0:
		return tokensOffProblem()
	case a == admin:
		need, scope = "a token of scope admin", " --scope admin"
	}
	p := unauthenticated.problem("this needs " + need + ": send Authorization: Bearer …; parley token create" + scope + " makes one")
	p.refused = "token"
	return p
}

func scopeProblem(detail string) *problem {
	p := forbidden.problem(detail)
	p.refused = "scope"
	return p
}
