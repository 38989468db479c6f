package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is one thing measured several times, in the order of the runs.
type figure []float64

func (f *figure) add(v float64) { *f = append(*f, v) }

func (f figure) median() float64 { return quantile(f, 0.5) }

// MarshalJSON gives every run, so that a reader can judge the median.
func (f figure) MarshalJSON() ([]byte, error) {
	if len(f) == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(struct {
		Median float64   `json:"median"`
		Min    float64   `json:"min"`
		Max    float64   `json:"max"`
		Runs   []float64 `json:"runs"`
	}{sixDigits(f.median()), sixDigits(slices.Min(f)), sixDigits(slices.Max(f)), f.each(sixDigits)})
}

func (f figure) each(do func(float64) float64) figure {
	g := make(figure, len(f))
	for i, v := range f {
		g[i] = do(v)
	}
	return g
}

// over divides run by run: both sides of a ratio were measured side by side.
func (f figure) over(g figure) figure {
	r := make(figure, 0, len(f))
	for i := range min(len(f), len(g)) {
		if g[i] != 0 {
			r.add(f[i] / g[i])
		}
	}
	return r
}

// text is the median with min–max, "–" where nothing was measured.
func (f figure) text() string {
	switch len(f) {
	case 0:
		return "–"
	case 1:
		return number(f[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(f.median()), number(slices.Min(f)), number(slices.Max(f)))
}

// number shows about three digits, thousands with commas or as k.
func number(v float64) string {
	switch {
	case v < 0:
		return "-" + number(-v)
	case v == 0:
		return "0"
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	suffix := ""
	if v >= 99_950 {
		v, suffix = v/1000, "k"
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String() + suffix
}

// sixDigits rounds: more digits are noise.
func sixDigits(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	scale := math.Pow(10, 5-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// quantile is the nearest-rank one; for the median of an even count it is the
// mean of both middle values. 0 of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if q == 0.5 && len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// spread compares one half of equal runs with the other half, taken in turn:
// the difference of their medians is what this machine cannot tell apart.
func spread(f figure) float64 {
	var a, b figure
	for i, v := range f {
		if i%2 == 0 {
			a.add(v)
		} else {
			b.add(v)
		}
	}
	if len(b) == 0 || f.median() == 0 {
		return 0
	}
	return math.Abs(a.median()-b.median()) / f.median()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
