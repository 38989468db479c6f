package config

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Changed lists the keys whose values differ, by name.
func Changed(a, b Config) []string {
	var names []string
	for _, k := range knobs {
		x, y := k.at(&a), k.at(&b)
		same := format(x) == format(y)
		if s, ok := x.(*Secret); ok { // which format hides
			same = *s == *y.(*Secret)
		}
		if !same {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return names
}

// Take copies the value of one key, which MUST be one of Keys.
func Take(to *Config, from Config, key string) {
	k, ok := find(key)
	if !ok {
		panic("config: no key " + key)
	}
	switch p := k.at(to).(type) {
	case *string:
		*p = *k.at(&from).(*string)
	case *bool:
		*p = *k.at(&from).(*bool)
	case *int:
		*p = *k.at(&from).(*int)
	case *float64:
		*p = *k.at(&from).(*float64)
	case *[]string:
		*p = *k.at(&from).(*[]string)
	case *time.Duration:
		*p = *k.at(&from).(*time.Duration)
	case *[]Sink:
		*p = *k.at(&from).(*[]Sink)
	case *Rate:
		*p = *k.at(&from).(*Rate)
	case *Secret:
		*p = *k.at(&from).(*Secret)
	default:
		panic(fmt.Sprintf("config: no key of %T changes while a node runs", p))
	}
}

// Check judges the values of keys, each of which MUST be one of Keys, and puts
// them into their normal form: what Load did with a configuration that it made,
// and nobody with one that a program made. Each is judged by itself, but for
// api.cors, which depends on api.public_read. The error names all that is wrong.
func Check(c *Config, keys ...string) error {
	var errs []error
	judge := checker{devnet: c.Profile == ProfileDevnet}
	for _, name := range keys {
		k, ok := find(name)
		if !ok {
			panic("config: no key " + name)
		}
		problems := k.bounds(c)
		if len(problems) == 0 && k.check != nil {
			problems = k.check(&judge, c)
		}
		for _, p := range problems {
			errs = append(errs, fmt.Errorf("%s: %s [PLY-101 %s]", name, p.text, p.rule))
		}
	}
	if p := checkOrigins(c); p != nil && (slices.Contains(keys, corsKey) || slices.Contains(keys, publicReadKey)) {
		errs = append(errs, fmt.Errorf("%s: %s [PLY-101 %s]", corsKey, p.text, p.rule))
	}
	return errors.Join(errs...)
}
