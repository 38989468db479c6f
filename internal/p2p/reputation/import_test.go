package reputation

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// A list bans what it names, over several transactions; what is no ban is
// counted, told as far as that is of use, and keeps nothing else out.
func TestImport(t *testing.T) {
	friend := netip.MustParseAddr("198.51.100.7")
	b, _ := openBans(t, BansConfig{Max: 3000})
	b.Protect(func() Protected { return Protected{Addrs: []netip.Addr{friend}} })
	var list strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&list, "10.0.%d.%d # scanner %d\n", i>>8, i&255, i)
	}
	list.WriteString("\n# nobody\n198.51.100.0/24\n{\"target\":\"2001:db8::/32\",\"until\":null,\"note\":\"from afar\"}\n")
	list.WriteString(strings.Repeat("nonsense\n", 1500))
	sum, err := b.Import(t.Context(), strings.NewReader(list.String()), "me", false)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Added != 2501 || sum.Known != 0 || sum.RefusedLines != 1501 || len(sum.Refused) != maxRefusedLines || sum.Refused[0].Line != 2503 {
		t.Errorf("added %d, known %d, refused %d, of these told %d, first %+v", sum.Added, sum.Known, sum.RefusedLines, len(sum.Refused), sum.Refused[0])
	}
	if sum.Endless != 2500 || sum.For != "24h0m0s" || !strings.HasSuffix(sum.Refused[0].Why, "; parley bans import --force takes it too") {
		t.Errorf("%d without an end, for %s; refused: %s", sum.Endless, sum.For, sum.Refused[0].Why)
	}
	if b.Count() != 2501 || b.Banned("", friend) || !b.Banned("", netip.MustParseAddr("10.0.9.195")) {
		t.Errorf("%d banned", b.Count())
	}
	far, ok := b.Check(Target{Prefix: netip.MustParsePrefix("2001:db8::/32")})
	if !ok || far.Until != nil || far.Note != "from afar" || far.Origin != OriginImport || far.Actor != "me" {
		t.Errorf("%+v", far)
	}
	again, err := b.Import(t.Context(), strings.NewReader(`{"target":"2001:db8::/32","until":null}`), "me", false)
	if err != nil || again.Known != 1 || again.Added != 0 {
		t.Errorf("again: %+v %v", again, err)
	}
	// What a list bans for longer is known, and is no new ban.
	twice, err := b.Import(t.Context(), strings.NewReader("10.0.0.1\n10.0.0.1\n2001:db9::/32\n2001:db9::/32\n"), "me", false)
	if err != nil || twice.Added != 1 || twice.Known != 3 {
		t.Errorf("twice: %+v %v", twice, err)
	}
	if err := b.Remove(t.Context(), Target{Prefix: netip.MustParsePrefix("2001:db9::/32")}, "me"); err != nil {
		t.Fatal(err)
	}
	var bad *RequestError
	if err := CheckImport(strings.NewReader("10.1.0.0\n" + strings.Repeat("x", maxImportLine+1))); !errors.As(err, &bad) {
		t.Errorf("too long a line: %v", err)
	}
	if err := CheckImport(strings.NewReader("10.1.0.0\nnonsense\n")); err != nil || b.Count() != 2501 {
		t.Errorf("looked at: %v, %d banned", err, b.Count())
	}
	// A list that does not fit: what came first holds, and what needs no place.
	list.Reset()
	for i := range 1000 {
		fmt.Fprintf(&list, "10.1.%d.%d\n", i>>8, i&255)
	}
	list.WriteString("10.1.0.0\n{\"target\":\"10.0.0.1\",\"until\":null}\n")
	sum, err = b.Import(t.Context(), strings.NewReader(list.String()), "me", false)
	if !errors.Is(err, ErrBansFull) || !strings.HasPrefix(err.Error(), "501 new targets") || sum.Added != 499 || b.Count() != 3000 {
		t.Errorf("a list that does not fit: %v, %d added, %d banned", err, sum.Added, b.Count())
	}
	if long, _ := b.Check(Target{Prefix: netip.MustParsePrefix("10.0.0.1/32")}); long.Until != nil {
		t.Errorf("a ban that is there is not made longer in a full list: %+v", long)
	}
}
