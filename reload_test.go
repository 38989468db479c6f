package parley_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// A reload takes over all or nothing: who takes over a key beside the node is
// asked before the first change.
func TestReloadIsWhole(t *testing.T) {
	var says error
	var acted []string
	take := func(c config.Config) (func(), error) {
		return func() { acted = append(acted, c.Log.Level) }, says
	}
	c := labConfig(t)
	n, err := parley.New(c, parley.Env{Live: map[string]func(config.Config) (func(), error){"log.level": take}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	before := n.LiveConfig()
	next := c
	next.Log.Level, next.Bans.Threshold, next.P2P.StaticPeers, next.API.PublicRead = "warn", 40, []string{"node9:8080"}, false
	want := config.Changed(c, next)
	says = errors.New("no such level today")
	r, err := n.Reload(t.Context(), next, false)
	if err == nil || !strings.HasPrefix(err.Error(), "log.level: no such level") || len(r.Changed) > 0 || len(acted) > 0 {
		t.Errorf("refused: %+v %v, acted %q", r, err, acted)
	}
	if diff := config.Changed(before, n.LiveConfig()); len(diff) > 0 || len(n.StaticPeers()) > 0 {
		t.Errorf("%q changed although it was refused; %d static peers", diff, len(n.StaticPeers()))
	}
	says = nil
	r, err = n.Reload(t.Context(), next, false)
	if err != nil || !slices.Equal(r.Changed, want) || !slices.Equal(acted, []string{"warn"}) || len(n.StaticPeers()) != 1 {
		t.Errorf("%+v %v, acted %q, want %q", r, err, acted, want)
	}
}
