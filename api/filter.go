package api

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

const maxGlobs = 64 // of one client's filter

// filter chooses events by their type. The last rule that fits decides.
type filter struct {
	rules   []rule
	key     string   // equal filters have equal ones
	logs    bool     // may see lines of the log
	unknown []string // patterns it was made with that fit no type of event
}

type rule struct {
	glob string
	in   bool
}

// newFilter reads a list of globs, "" = all but the noisy ones. Where none fits a
// type of event it is misspelt; where some do the others may be for a newer node.
func newFilter(types string) (*filter, error) {
	f := &filter{}
	if types == "" {
		_, err := f.add(true, "*")
		_, but := f.add(false, "log.*", "stats.*", peerSampled)
		return f, errors.Join(err, but)
	}
	unknown, err := f.add(true, strings.Split(types, ",")...)
	if err == nil && len(f.rules) == 0 {
		err = fmt.Errorf("types: %w", config.CheckEventPattern(unknown[0]))
	}
	f.unknown = unknown
	return f, err
}

// add leaves out patterns that fit no type of event, and returns them.
func (f *filter) add(in bool, globs ...string) (unknown []string, err error) {
	for _, g := range globs {
		g = strings.TrimSpace(g)
		var no *config.UnknownPatternError
		switch err := config.CheckEventPattern(g); {
		case errors.As(err, &no):
			if unknown = append(unknown, g); len(unknown) > maxGlobs {
				return nil, fmt.Errorf("types: more than %d patterns", maxGlobs)
			}
			continue
		case err != nil:
			return nil, fmt.Errorf("types: %w", err)
		}
		f.rules = slices.DeleteFunc(f.rules, func(r rule) bool { return r.glob == g })
		if f.rules = append(f.rules, rule{g, in}); len(f.rules) > maxGlobs {
			return nil, fmt.Errorf("types: more than %d patterns", maxGlobs)
		}
	}
	f.key = f.sum()
	return unknown, nil
}

// seeLogs says whether lines of the log may be let in.
func (f *filter) seeLogs(may bool) {
	f.logs = may
	f.key = f.sum()
}

// denied are the patterns that let in lines of the log alone, where those may not
// be seen.
func (f *filter) denied() (globs []string) {
	if f.logs {
		return nil
	}
	for _, r := range f.rules {
		if r.in && !slices.ContainsFunc(event.Types(), func(name string) bool {
			fits, _ := path.Match(r.glob, name)
			return fits && !isLog(name)
		}) {
			globs = append(globs, r.glob)
		}
	}
	return globs
}

func isLog(name string) bool { return strings.HasPrefix(name, "log.") }

// sum quotes each glob: clients choose them, and no two lists may look alike.
func (f *filter) sum() string {
	b := strconv.AppendBool(nil, f.logs)
	for _, r := range f.rules {
		b = strconv.AppendQuote(strconv.AppendBool(append(b, ' '), r.in), r.glob)
	}
	return string(b)
}

// choose returns the frames that are let in.
func (f *filter) choose(frames []frame) (in []frame) {
	for _, fr := range frames {
		if f.match(fr.name) {
			in = append(in, fr)
		}
	}
	return in
}

func (f *filter) match(name string) bool {
	if !f.logs && isLog(name) {
		return false
	}
	for _, r := range slices.Backward(f.rules) {
		if ok, _ := path.Match(r.glob, name); ok {
			return r.in
		}
	}
	return false
}
