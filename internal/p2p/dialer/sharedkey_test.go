package dialer

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/internal/wire"
)

// Where the shared key is why nobody gets in, the reason says which side lacks
// what, and the class follows how sure that is.
func TestAboutKey(t *testing.T) {
	it := &item{text: "node1:8080"}
	hungUp := fmt.Errorf("dial: %w", io.EOF)
	silent := fmt.Errorf("dial: %w: %w", keyFault(false), io.EOF)
	for _, tt := range []struct {
		own     string
		private bool
		err     error
		class   Class
		want    string // "" = the error stays as it is
	}{
		{"", true, hungUp, ClassNotAllowed, "node1:8080 is in a private network, and this node has no shared key: get the key file"},
		{"", false, hungUp, ClassRefused, ""},
		{"", true, refused(wire.TooManyPeers), ClassFull, ""},
		{"ab12cd34", true, silent, ClassRefused, "node1:8080 is in a private network and hung up at this node's shared key ab12cd34: it has another one"},
		{"ab12cd34", false, silent, ClassRefused, "node1:8080 hung up without a word at this node's shared key ab12cd34: it has another one, or none"},
		{"ab12cd34", false, fmt.Errorf("dial: %w", keyFault(true)), ClassNotAllowed, "node1:8080: it has another shared key, and this node dials with the key ab12cd34: give both the same"},
		{"ab12cd34", true, errors.New("no route"), ClassUnreachable, ""},
	} {
		d := &Dialer{fns: Functions{SharedKey: func() string { return tt.own }}}
		err := d.aboutKey(it, outcome{private: tt.private}, tt.err)
		if !errors.Is(err, tt.err) || classify(err) != tt.class {
			t.Errorf("%v: %v of class %s, want %s", tt.err, err, classify(err), tt.class)
		}
		switch told := reason(err); {
		case tt.want == "" && told != reason(tt.err):
			t.Errorf("%v: %q, want it as it was", tt.err, told)
		case !strings.HasPrefix(told, tt.want):
			t.Errorf("%v: %q, want %q …", tt.err, told, tt.want)
		case len(told) >= maxReason:
			t.Errorf("%q is cut off", told)
		}
	}
	if err := new(Dialer).aboutKey(it, outcome{private: true}, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}
