package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

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
	sub   string // of the token

	until time.Time // end of the token, zero = none
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
		return "", fmt.Errorf("lifetime %s: want more than 0 and at most %s", ttl, maxLifetime)
	}
	secrets, err := readSecrets(cfg)
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

// loadSecrets reads the secrets of tokens, and makes one where there is no file.
func loadSecrets(cfg config.Config, log *slog.Logger) ([][]byte, error) {
	path := cfg.Path(cfg.API.JWTSecretFile)
	if cfg.API.JWTSecret == "" && path != "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := makeSecret(path); err != nil {
				return nil, err
			}
			log.Info("token secret made", "file", path)
		}
	}
	secrets, err := readSecrets(cfg)
	if err == nil && len(secrets) == 0 {
		log.Warn("tokens are off: no secret has 32 bytes or more", "code", "PLY-111")
	}
	return secrets, err
}

func makeSecret(path string) error {
	var secret [minSecret]byte
	_, _ = rand.Read(secret[:]) // never fails, by its documentation
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("token secret: %w", err)
	}
	_, err = fmt.Fprintln(f, hex.EncodeToString(secret[:]))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write token secret %s: %w", path, err)
	}
	return nil
}

func readSecrets(cfg config.Config) ([][]byte, error) {
	if cfg.API.JWTSecret != "" {
		return parseSecrets([]byte(cfg.API.JWTSecret)), nil
	}
	path := cfg.Path(cfg.API.JWTSecretFile)
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("api.jwt_secret_file: %w", err)
	}
	inDataDir := !filepath.IsAbs(cfg.API.JWTSecretFile) // elsewhere, as a mounted secret, its mode is the mounter's
	if mode := info.Mode().Perm(); inDataDir && mode&0o077 != 0 {
		return nil, fmt.Errorf("api.jwt_secret_file %s has mode %#o and may be read by others: chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("api.jwt_secret_file: %w", err)
	}
	return parseSecrets(b), nil
}

// parseSecrets reads one secret a line. Hex digits count as the bytes that they
// name, which sign; as text they verify too, since other tools sign with that.
func parseSecrets(b []byte) [][]byte {
	var secrets [][]byte
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		raw := make([]byte, hex.DecodedLen(len(line)))
		if n, err := hex.Decode(raw, line); err == nil && n >= minSecret {
			secrets = append(secrets, raw)
		}
		if len(line) >= minSecret {
			secrets = append(secrets, line)
		}
	}
	return secrets
}

// authenticate finds out who sends r. It refuses a token that does not hold,
// even where none is needed.
func (s *Server) authenticate(r *http.Request, queryToken bool) (caller, *problem) {
	text := tokenOf(r, queryToken)
	if text == "" {
		return caller{}, nil
	}
	if len(s.secrets) == 0 {
		return caller{}, tokensOffProblem()
	}
	c, err := s.parseToken(text)
	if err != nil {
		p := unauthenticated.problem(err.Error())
		p.refused = "token"
		return caller{}, p
	}
	return c, nil
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

func (s *Server) parseToken(text string) (caller, error) {
	var c claims
	keys := jwt.VerificationKeySet{}
	for _, secret := range s.secrets {
		keys.Keys = append(keys.Keys, secret)
	}
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding(),
	).ParseWithClaims(text, &c, func(*jwt.Token) (any, error) { return keys, nil })
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

// tokenFault says what a client needs to know, and nothing of the token.
func tokenFault(err error) error {
	switch {
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
	need := "a token"
	switch {
	case a == open, c.admin, a == read && (c.token || s.cfg.API.PublicRead), a == anybody && c.token:
		return nil
	case c.token:
		return scopeProblem("this needs a token of scope admin")
	case len(s.secrets) == 0:
		return tokensOffProblem()
	case a == admin:
		need = "a token of scope admin"
	}
	p := unauthenticated.problem("this needs " + need + ": send Authorization: Bearer …; parley token create makes one")
	p.refused = "token"
	return p
}

func scopeProblem(detail string) *problem {
	p := forbidden.problem(detail)
	p.refused = "scope"
	return p
}
