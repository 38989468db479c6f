package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestMeasureSync: each variant moves the whole chain, and the bad peers were
// really asked.
func TestMeasureSync(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some MiB on loopback")
	}
	r, err := measureSync(t.Context(), t.TempDir(), syncPlan{Bytes: 10 * mib, Body: 4096, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]figure{"TCP": r.TCP, "stream": r.Stream, "one": r.One, "three": r.Three, "bad": r.Bad, "checks": r.Checks, "CPU": r.CPUUS} {
		if len(f) == 0 || slices.Min(f) <= 0 {
			t.Errorf("%s: %v", name, f)
		}
	}
	if r.Bytes < 10*mib || r.Blocks < 10 || r.Records < 2000 || r.Charges == 0 {
		t.Errorf("%+v", r)
	}
	r.TCP, r.Stream = figure{3297, 5012, 7369}, figure{1152, 1276, 1541} // as wide as they come
	text := syncTable([]syncRow{r, r, r, r})
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("line of %d columns: %s", n, line)
		}
		if regexp.MustCompile(`\)\S`).MatchString(line) {
			t.Errorf("columns run together: %s", line)
		}
	}
	for _, want := range []string{"4096 B records", "loopback", "3 and 2 bad / raw stream, %"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// BenchmarkSync is a sync from three peers, for profiles.
func BenchmarkSync(b *testing.B) {
	for _, size := range []int{4096, 256} {
		b.Run(map[int]string{4096: "4096B", 256: "256B"}[size], func(b *testing.B) {
			lab, err := openSyncLab(b.TempDir(), 24*mib, size, honestPeers)
			if err != nil {
				b.Fatal(err)
			}
			defer lab.close()
			b.SetBytes(lab.bytes)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := lab.sync(b.Context(), lab.servers, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestMeasureAnnouncement: the block is put together, and its announcement with
// what was missing is a small part of it.
func TestMeasureAnnouncement(t *testing.T) {
	for _, body := range []int{4096, 256} {
		r, err := measureAnnouncement(t.Context(), t.TempDir(), body)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", r)
		if r.Missing == 0 || r.Fetched == 0 || r.share(r.Announcement+r.Fetched) > 3 {
			t.Errorf("announcement %.2f %%, fetched %.2f %%", r.share(r.Announcement), r.share(r.Fetched))
		}
	}
}
