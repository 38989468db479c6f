package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestHash(t *testing.T) {
	text := strings.Repeat("0a", 31) + "ff"
	h, err := ParseHash(text)
	if err != nil || h.String() != text || h.Short() != "0a0a0a0a" || h.IsZero() {
		t.Errorf("%s, %v", h, err)
	}
	var back Hash
	b, err := json.Marshal(h)
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || back != h {
		t.Errorf("%s came back as %s, %v", h, back, err)
	}
	for _, bad := range []string{"", "0x" + text[2:], text[1:], text + "00", strings.Repeat("zz", 32), strings.Repeat("a", 1000)} {
		if _, err := ParseHash(bad); err == nil || len(err.Error()) > 200 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestInvalid(t *testing.T) {
	err := fmt.Errorf("block 7: %w", Invalid(ForgedBlock, "vote of %d", 3))
	var bad *InvalidError
	if !errors.As(err, &bad) || bad.Offence != ForgedBlock || bad.Detail != "vote of 3" {
		t.Errorf("%v", err)
	}
}

func TestServiceNames(t *testing.T) {
	if got := (Full | Validator | API | 1<<40).Names(); !slices.Equal(got, []string{"full", "validator", "api"}) {
		t.Errorf("%v", got)
	}
	if got := Service(0).Names(); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
}
