package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Sidecar is about a chain whose program is attached to this node.
type Sidecar struct {
	Topics          SidecarTopics // served though no program declares them
	Protocols       []string      // names of requests that are served though no program declares them
	ValidateTimeout time.Duration // for a verdict of the program
	OnTimeout       string        // what becomes of a message without one
	OnDetached      string        // and of one that comes while no program is attached
	MaxMessage      Size          // of any topic
}

// Values of Sidecar.OnTimeout and Sidecar.OnDetached.
const (
	SidecarIgnore = "ignore" // dropped, and nobody is charged
	SidecarAccept = "accept" // relayed
)

// SidecarTopic is one topic of the program's.
type SidecarTopic struct {
	Name     string
	Max      Size // of one message; 0 = Sidecar.MaxMessage
	Validate bool // ask the program for a verdict
}

// SidecarTopics are written as tables in files, and elsewhere as
// NAME[:MAX][:novalidate].
type SidecarTopics []SidecarTopic

const noValidate = "novalidate"

func (t SidecarTopic) String() string {
	text := t.Name
	if t.Max != 0 {
		text += ":" + t.Max.String()
	}
	if !t.Validate {
		text += ":" + noValidate
	}
	return text
}

func (ts SidecarTopics) String() string {
	items := make([]string, len(ts))
	for i, t := range ts {
		items[i] = t.String()
	}
	return strings.Join(items, ",")
}

// parseSidecarTopic reads what String gives.
func parseSidecarTopic(text string) (SidecarTopic, error) {
	parts := strings.Split(text, ":")
	t := SidecarTopic{Name: parts[0], Validate: true}
	parts = parts[1:]
	if n := len(parts); n > 0 && parts[n-1] == noValidate {
		t.Validate, parts = false, parts[:n-1]
	}
	var err error
	switch len(parts) {
	case 0:
	case 1:
		if t.Max, err = ParseSize(parts[0]); err != nil || t.Max == 0 {
			return t, fmt.Errorf("has %s, which is no size like 64KiB", quote(parts[0]))
		}
	default:
		return t, fmt.Errorf("has %s: want NAME, NAME:MAX or NAME:MAX:novalidate", quote(text))
	}
	return t, nil
}

func (ts *SidecarTopics) setText(text string) error {
	list := SidecarTopics{}
	for _, item := range splitList(text) {
		t, err := parseSidecarTopic(item)
		if err != nil {
			return err
		}
		list = append(list, t)
	}
	*ts = list
	return nil
}

// setItems reads a list of a file, whose items are tables or texts.
func (ts *SidecarTopics) setItems(items []any) error {
	list := SidecarTopics{}
	for i, item := range items {
		var t SidecarTopic
		var err error
		switch v := item.(type) {
		case string:
			t, err = parseSidecarTopic(v)
		case map[string]any:
			t, err = sidecarTopicOf(v)
		default:
			err = errors.New("is neither a table nor a text")
		}
		if err != nil {
			return fmt.Errorf("has at position %d something that %w", i+1, err)
		}
		list = append(list, t)
	}
	*ts = list
	return nil
}

// sidecarTopicOf reads { name = "tx", max = "64KiB", validate = true }.
func sidecarTopicOf(table map[string]any) (SidecarTopic, error) {
	t := SidecarTopic{Validate: true}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		var err error
		switch key {
		case "name":
			err = setValue(&t.Name, table[key])
		case "max":
			err = setValue(&t.Max, table[key])
		case "validate":
			err = setValue(&t.Validate, table[key])
		default:
			return t, fmt.Errorf("names the unknown key %s: it has name, max and validate", quote(key))
		}
		if err != nil {
			return t, fmt.Errorf("has %s = %s, which %w", key, show(table[key]), err)
		}
	}
	return t, nil
}

const (
	maxSidecarNames = 32       // topics, and as many protocols
	maxSidecarBytes = 10 << 20 // of one message
)

// ReservedTopics are those that a program cannot have: claims of every node,
// and parts of long messages.
func (t Topics) ReservedTopics() []string {
	return []string{"best_block", "node_status", "handshake", "chunk", t.BestBlock, t.NodeStatus, t.Handshake}
}

// SidecarName reports whether s can name a topic or a request of a program.
func SidecarName(s string) bool { return topicName.MatchString(s) }

// SidecarNameRule says what SidecarName wants.
const SidecarNameRule = "1 to 64 of the characters A-Z, a-z, 0-9, _, . and -"

// SidecarLonger says what a program does with a message that is too long.
const SidecarLonger = "publish the hash of what is longer, and let peers get it by Request, whose answers have no such limit"

func checkSidecarTopics(_ *checker, c *Config) (out []problem) {
	if n := len(c.Sidecar.Topics); n > maxSidecarNames {
		return one(RuleRange, "has %d topics, at most %d", n, maxSidecarNames)
	}
	seen := map[string]bool{}
	for _, t := range c.Sidecar.Topics {
		switch {
		case !SidecarName(t.Name):
			out = append(out, problem{RuleRange, "topic " + quote(t.Name) + " is not " + SidecarNameRule})
		case seen[t.Name]:
			out = append(out, problem{RuleRange, "topic " + quote(t.Name) + " is there twice"})
		}
		seen[t.Name] = true
	}
	return out
}

func checkSidecarProtocols(_ *checker, c *Config) (out []problem) {
	if n := len(c.Sidecar.Protocols); n > maxSidecarNames {
		return one(RuleRange, "has %d names, at most %d", n, maxSidecarNames)
	}
	for i, p := range c.Sidecar.Protocols {
		switch {
		case !SidecarName(p):
			out = append(out, problem{RuleRange, quote(p) + " is not " + SidecarNameRule})
		case slices.Contains(c.Sidecar.Protocols[:i], p):
			out = append(out, problem{RuleRange, quote(p) + " is there twice"})
		}
	}
	return out
}

// checkSidecar tests what depends on several keys.
func checkSidecar(c *Config) map[string]problem {
	out := map[string]problem{}
	reserved := c.Gossip.Topics.ReservedTopics()
	for _, t := range c.Sidecar.Topics {
		switch {
		case slices.Contains(reserved, t.Name):
			out["sidecar.topics"] = problem{RuleRange, quote(t.Name) + " is a topic of every node: choose another name"}
		case t.Max > c.Sidecar.MaxMessage:
			out["sidecar.topics"] = problem{RuleRange, fmt.Sprintf("topic %s takes messages of %s, more than sidecar.max_message, %s", quote(t.Name), t.Max, c.Sidecar.MaxMessage)}
		}
	}
	return out
}

// Limits gives the bytes that a message of t may have.
func (s Sidecar) Limits(t SidecarTopic) (int, error) {
	most := int(s.MaxMessage)
	switch n := int(t.Max); {
	case n == 0:
		return most, nil
	case n < 0 || n > most:
		return 0, errors.New(strconv.Itoa(n) + " bytes: want 1 to " + strconv.Itoa(most) + ", which is sidecar.max_message")
	default:
		return n, nil
	}
}
