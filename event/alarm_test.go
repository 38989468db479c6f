package event

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An alarm is told once when it begins and once when it is over, whether its end
// is seen or only nothing any more.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		bus := NewBus(64)
		sub := bus.Subscribe()
		defer sub.Close()
		a := NewAlarms(bus, slog.New(slog.NewTextHandler(&out, nil)))
		told := func() (s string) {
			got, _ := sub.Take(64)
			for _, e := range got {
				switch v := e.Data.(type) {
				case AlarmRaised:
					s += "+" + v.Code
				case AlarmCleared:
					s += "-" + v.Code
				}
			}
			return s
		}
		list := func() (s string) {
			for _, v := range a.List() {
				s += fmt.Sprint(v.Code, " ", v.Text, v.Evidence, " ")
			}
			return s
		}
		a.Set("b", false, "no", nil)
		a.Set("b", true, "why", map[string]any{"n": 1})
		a.Set("b", true, "why else", nil)
		a.Seen("a", "once", nil)
		if got := told() + " " + list(); got != "+b+a a oncemap[] b whymap[n:1] " {
			t.Errorf("told %q", got)
		}
		time.Sleep(20 * time.Minute)
		a.Seen("a", "again", nil)
		time.Sleep(20 * time.Minute)
		if a.Forget(time.Now(), 30*time.Minute); told() != "" || !a.On("a") || !a.On("b") {
			t.Error("an alarm is over that was seen 20 minutes ago, or one that has no end by time")
		}
		time.Sleep(10 * time.Minute)
		a.Forget(time.Now(), 30*time.Minute)
		a.Forget(time.Now(), 30*time.Minute)
		a.Set("b", false, "it ended", nil)
		if got := told(); got != "-a-b" || len(a.List()) > 0 {
			t.Errorf("told %q, %v stand", got, a.List())
		}
		if n := strings.Count(out.String(), "alarm raised") + strings.Count(out.String(), "alarm cleared"); n != 4 {
			t.Errorf("%d lines of log:\n%s", n, out.String())
		}
	})
}
