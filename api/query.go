package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley/config"
)

// queryOf are the names that an operation of a native route takes in the query.
// It is never nil.
func queryOf(op *huma.Operation) []string {
	names := []string{}
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	return names
}

// checkQuery refuses what a native route does not take: without it a misspelt
// parameter would answer as if it were not there.
func (rt *route) checkQuery(r *http.Request) *problem {
	if rt.query == nil || r.URL.RawQuery == "" {
		return nil
	}
	asked := r.URL.Query()
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !slices.Contains(rt.query, name) {
			faults = append(faults, &huma.ErrorDetail{Location: fmt.Sprintf("query.%.40s", name), Message: "there is no such parameter" + rt.nearest(name), Value: asked.Get(name)})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return invalidFor(invalid.problem(""), faults[:min(len(faults), maxFaults)]...)
}

// nearest says what a name in a query may have been meant for.
func (rt *route) nearest(name string) string {
	switch {
	case name == "token":
		return ": send Authorization: Bearer …"
	case len(rt.query) == 0:
		return ": this route takes none"
	}
	return config.Nearest(name, rt.query, rt.query)
}
