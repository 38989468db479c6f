package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, as text "64MiB". Never negative when it comes from Load.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads "64MiB", "512KiB", "100B" or a bare number of bytes.
func ParseSize(text string) (Size, error) {
	digits, unit := text, int64(1)
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			digits, unit = strings.TrimRight(n, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > math.MaxInt64/uint64(unit) {
		return 0, errors.New("is not a size like 64MiB")
	}
	return Size(int64(n) * unit), nil
}

// String gives the shortest exact text, which ParseSize reads back.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// Rate is a number per second, as text "50/s".
type Rate int

// ParseRate reads "50/s".
func ParseRate(text string) (Rate, error) {
	digits, ok := strings.CutSuffix(text, "/s")
	n, err := strconv.ParseUint(digits, 10, 31)
	if !ok || err != nil {
		return 0, errors.New("is not a rate like 50/s")
	}
	return Rate(n), nil
}

// String gives the text that ParseRate reads.
func (r Rate) String() string { return strconv.Itoa(int(r)) + "/s" }

// Secret is text that no printing shows. Take it with string(s).
type Secret string

const masked = "***"

// String gives *** for every secret but the empty one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// Format makes every verb of fmt print what String gives.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON, TOML and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// formatDuration writes 24h0m0s as 24h.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
