package api

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley/chain"
)

// byHash makes an operation on a block conditional: what is named by its hash
// changes only in its form, with the program, so a client that has it is told so.
func (s *Server) byHash(op *huma.Operation) {
	v := s.node.Version()
	also(http.StatusNotModified)(op)
	form := strings.Trim(tagOf([]byte(v.Version+" "+v.Commit)), `"`)[:8]
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		hash, err := chain.ParseHash(ctx.Param("ref"))
		if err != nil {
			next(ctx) // by height
			return
		}
		whose := "public"
		if !s.live.Load().publicRead {
			whose = "private"
		}
		next(&tagged{humaContext: ctx, tag: `"` + hash.String() + "-" + form + `"`, cache: whose + ", no-cache"})
	})
}

type humaContext = huma.Context // whose method Context would be hidden by a field of that name

// tagged is the context of an answer with an ETag. A client that has it gets 304;
// an error is an error.
type tagged struct {
	humaContext
	tag, cache string
	had        bool
}

func (c *tagged) SetStatus(code int) {
	if code == http.StatusOK {
		c.SetHeader("ETag", c.tag)
		c.SetHeader("Cache-Control", c.cache)
		if c.had = hasTag(c.Header("If-None-Match"), c.tag); c.had {
			code = http.StatusNotModified
		}
	}
	c.humaContext.SetStatus(code)
}

func (c *tagged) BodyWriter() io.Writer {
	if c.had {
		return io.Discard
	}
	return c.humaContext.BodyWriter()
}

// hasTag tells whether a header If-None-Match names tag, also as a weak one.
func hasTag(header, tag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
			return true
		}
	}
	return false
}

// tagOf is the tag of an answer that changes only with the program.
func tagOf(b []byte) string {
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// serveTagged writes b, or nothing to who has it. It is asked for each time: the
// next start may be of another version.
func serveTagged(w http.ResponseWriter, r *http.Request, b []byte, tag, mediaType string) {
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "no-cache")
	if hasTag(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	_, _ = w.Write(b) // the client is gone
}
