package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

const backupType = "application/zstd"

func (s *Server) backupRoutes() {
	s.raw(route{method: http.MethodGet, pattern: prefix + "backup", access: admin, places: s.dumps, serve: s.backup}, huma.Operation{
		OperationID: "get-backup", Summary: "A backup of this node as it stands: tar, zstd",
	}, form{query: []*huma.Param{param("with_keys", huma.TypeBoolean, "by the local socket only")}, gives: backupType})
}

// backup streams a backup. One that fails on its way is cut off, and then has
// no end that a reader would take.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	keys := r.URL.Query().Get("with_keys")
	if keys != "" && keys != "true" && keys != "false" {
		s.refuse(w, r, badRequest.problem("with_keys: want true or false"))
		return
	}
	if keys == "true" && !callerOf(r.Context()).local {
		s.refuse(w, r, forbidden.problem("keys leave the node by its local socket only: run parley backup create --with-keys on its machine, as its user"))
		return
	}
	began := &lazyHeader{ResponseWriter: w, contentType: backupType}
	m, err := s.node.Backup(r.Context(), began, keys == "true")
	switch {
	case err == nil:
		s.log.Info("backup written", "height", m.Height, "bytes", m.Bytes(), "with_keys", m.WithKeys)
	case !began.wrote:
		s.refuse(w, r, s.problemOf(err))
	default:
		s.log.Warn("backup broken off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// lazyHeader keeps the header back until there is something to answer with.
type lazyHeader struct {
	http.ResponseWriter
	contentType string
	wrote       bool
}

func (l *lazyHeader) Write(b []byte) (int, error) {
	if !l.wrote {
		l.wrote = true
		l.Header().Set("Content-Type", l.contentType)
	}
	return l.ResponseWriter.Write(b)
}
