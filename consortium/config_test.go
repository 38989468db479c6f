package consortium

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigRoundTrip(t *testing.T) {
	c := sampleConfig(4)
	c.Epoch, c.AuthorPolicy, c.Authors = 2, Listed, sortedKeys(5)
	got, err := DecodeConfig(c.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Error(d)
	}
}

func TestConfigLimits(t *testing.T) {
	full := func(c *Config) { // all at their limits
		*c = *sampleConfig(31)
		for i := range c.Validators {
			c.Validators[i].Name = strings.Repeat("n", 64)
			c.Validators[i].Addresses = slices.Repeat([]string{"/" + strings.Repeat("a", 255)}, 8)
		}
		c.Admins, c.Threshold, c.Authors = sortedKeys(16), 16, sortedKeys(1_000)
	}
	for _, c := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"as it is", func(*Config) {}, ""},
		{"all at their limits", full, ""},
		{"epoch", func(c *Config) { c.Epoch = 1 << 53 }, "epoch"},
		{"next_id over 2^53", func(c *Config) { c.NextID = 1 << 53 }, "next_id"},
		{"next_id not above ids", func(c *Config) { c.NextID = 4 }, "next_id 4"},
		{"no validator", func(c *Config) { c.Validators = nil }, "0 validators"},
		{"32 validators", func(c *Config) { *c = *sampleConfig(32) }, "32 validators"},
		{"id 0", func(c *Config) { c.Validators[0].ID = 0 }, "ascending"},
		{"id twice", func(c *Config) { c.Validators[1].ID = 1 }, "ascending"},
		{"ids not sorted", func(c *Config) { slices.Reverse(c.Validators) }, "ascending"},
		{"key twice", func(c *Config) { c.Validators[1].Key = pub(1) }, "same key"},
		{"name too long", func(c *Config) { c.Validators[0].Name = strings.Repeat("n", 65) }, "name"},
		{"name with control", func(c *Config) { c.Validators[0].Name = "a\x1b[31m" }, "name"},
		{"name not UTF-8", func(c *Config) { c.Validators[0].Name = "\xff" }, "name"},
		{"no name", func(c *Config) { c.Validators[0].Name = "" }, ""},
		{"9 addresses", func(c *Config) { c.Validators[0].Addresses = slices.Repeat([]string{"/ip4/1.2.3.4"}, 9) }, "9 addresses"},
		{"address too long", func(c *Config) { c.Validators[0].Addresses = []string{"/" + strings.Repeat("a", 256)} }, "address"},
		{"address empty", func(c *Config) { c.Validators[0].Addresses = []string{""} }, "address"},
		{"address no multiaddr", func(c *Config) { c.Validators[0].Addresses = []string{"node1:9906"} }, "address"},
		{"address with space", func(c *Config) { c.Validators[0].Addresses = []string{"/dns4/a b"} }, "address"},
		{"no admin", func(c *Config) { c.Admins = nil }, "0 admins"},
		{"17 admins", func(c *Config) { c.Admins = sortedKeys(17) }, "17 admins"},
		{"admin twice", func(c *Config) { c.Admins[1] = c.Admins[0] }, "twice"},
		{"threshold 0", func(c *Config) { c.Threshold = 0 }, "threshold 0"},
		{"threshold over admins", func(c *Config) { c.Threshold = 4 }, "threshold 4"},
		{"policy", func(c *Config) { c.AuthorPolicy = 2 }, "policy 2"},
		{"1,001 authors", func(c *Config) { c.Authors = sortedKeys(1_001) }, "authors"},
		{"authors not sorted", func(c *Config) { c.Authors = sortedKeys(3); slices.Reverse(c.Authors) }, "ascending"},
		{"author twice", func(c *Config) { c.Authors = slices.Repeat(sortedKeys(1), 2) }, "ascending"},
		{"block too small", func(c *Config) { c.Params.MaxBlockBytes = 128<<10 - 1 }, "max_block_bytes"},
		{"block too large", func(c *Config) { c.Params.MaxBlockBytes = 8<<20 + 1 }, "max_block_bytes"},
		{"batch 0", func(c *Config) { c.Params.BatchRecords = 0 }, "batch_records"},
		{"batch too large", func(c *Config) { c.Params.BatchRecords = 1_001 }, "batch_records"},
		{"interval 0", func(c *Config) { c.Params.IntervalMS = 0 }, "interval_ms"},
		{"interval too large", func(c *Config) { c.Params.IntervalMS = 1_001 }, "interval_ms"},
		{"heartbeat too small", func(c *Config) { c.Params.HeartbeatMS = 499 }, "heartbeat_ms"},
		{"heartbeat too large", func(c *Config) { c.Params.HeartbeatMS = 60_001 }, "heartbeat_ms"},
		{"author_pending 0", func(c *Config) { c.Params.AuthorPending = 0 }, "author_pending"},
		{"author_pending too large", func(c *Config) { c.Params.AuthorPending = 1_000_001 }, "author_pending"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := sampleConfig(4)
			c.edit(cfg)
			wantError(t, cfg.Check(), c.want)
			_, err := DecodeConfig(cfg.Encode())
			if (err != nil) != (c.want != "") {
				t.Errorf("decodes with %v", err)
			}
		})
	}
	raw := sampleConfig(2).Encode()
	for n := range raw {
		if _, err := DecodeConfig(raw[:n]); err == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	_, err := DecodeConfig(append(raw, 0))
	wantError(t, err, "left over")
}

func TestMayWrite(t *testing.T) {
	c := sampleConfig(1)
	c.Authors = sortedKeys(9)
	if !c.MayWrite(pub(1)) {
		t.Error("open, and refused")
	}
	c.AuthorPolicy = Listed
	if c.MayWrite(pub(1)) {
		t.Error("not listed, and accepted")
	}
	for _, k := range c.Authors {
		if !c.MayWrite(k) {
			t.Errorf("%s is listed, and refused", k)
		}
	}
}

// TestCheckChange has one row for each rule; the chain has 4 validators and 3
// admins, 2 of which must approve.
func TestCheckChange(t *testing.T) {
	both := []int{1, 2}
	for _, c := range []struct {
		name   string
		edit   func(*Config)
		admins []int
		want   Reason
	}{
		{"adds a validator", nil, both, ""},
		{"all admins approve", nil, []int{3, 1, 2}, ""},
		{"removes a validator", func(c *Config) { c.Validators = c.Validators[:3] }, both, ""},
		{"removes all but one", func(c *Config) { c.Validators = c.Validators[4:] }, both, ""},
		{"same epoch", func(c *Config) { c.Epoch = 0 }, both, StaleConfig},
		{"epoch skipped", func(c *Config) { c.Epoch = 2 }, both, StaleConfig},
		{"kept id, other key", func(c *Config) { c.Validators[1].Key = pub(9) }, both, Malformed},
		{"two swap ids", func(c *Config) {
			v := c.Validators
			v[0].Key, v[1].Key = v[1].Key, v[0].Key
		}, both, Malformed},
		{"removed key under a new id", func(c *Config) {
			c.Validators = append(c.Validators[:3], Validator{ID: 6, Key: pub(4)})
			c.NextID = 7
		}, both, ""},
		{"kept validator renamed", func(c *Config) { c.Validators[0].Name = "new" }, both, ""},
		{"next_id stays behind the new id", func(c *Config) { c.NextID = 5 }, both, Malformed},
		{"next_id goes back", func(c *Config) { c.Validators, c.NextID = c.Validators[:3], 4 }, both, Malformed},
		{"next_id jumps", func(c *Config) { c.NextID = 100 }, both, ""},
		{"no validators", func(c *Config) { c.Validators = nil }, both, Malformed},
		{"32 validators", func(c *Config) {
			for id := 6; id <= 32; id++ {
				c.Validators = append(c.Validators, Validator{ID: uint64(id), Key: pub(id)})
			}
			c.NextID = 33
		}, both, Malformed},
		{"nobody approves", nil, nil, NotAuthorised},
		{"one short", nil, []int{1}, NotAuthorised},
		{"one twice", nil, []int{1, 1}, NotAuthorised},
		{"enough and one twice", nil, []int{1, 2, 1}, NotAuthorised},
		{"a stranger", nil, []int{1, 9}, NotAuthorised},
		{"enough and a stranger", nil, []int{1, 2, 9}, NotAuthorised},
		{"new admin approves itself", func(c *Config) { c.Admins[1] = pub(8) }, []int{1, 8}, NotAuthorised},
		{"admins change", func(c *Config) { c.Admins, c.Threshold = []PublicKey{pub(8)}, 1 }, both, ""},
		{"threshold over admins", func(c *Config) { c.Threshold = 4 }, both, Malformed},
		{"param out of bounds", func(c *Config) { c.Params.HeartbeatMS = 1 }, both, Malformed},
		{"param changes", func(c *Config) { c.Params.HeartbeatMS = 500 }, both, ""},
		{"1,000 authors", func(c *Config) { c.Authors = sortedKeys(1_000) }, both, ""},
		{"over the body limit", func(c *Config) {
			for id := 6; id <= 31; id++ {
				long := slices.Repeat([]string{"/" + strings.Repeat("a", 255)}, 8)
				c.Validators = append(c.Validators, Validator{ID: uint64(id), Key: pub(id), Addresses: long})
			}
			c.NextID, c.Authors = 32, sortedKeys(1_000)
		}, both, TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := sampleChange(4, c.edit, c.admins...)
			wantReason(t, CheckChange(sampleConfig(4), change, sampleGenesis(4).Hash()), c.want)
		})
	}
}

func TestCheckChangeReusedID(t *testing.T) {
	current := sampleConfig(4)
	current.Validators, current.NextID = current.Validators[:3], 9 // 4 to 8 are gone
	for id, want := range map[uint64]Reason{4: Malformed, 8: Malformed, 9: ""} {
		change := sampleChange(3, func(c *Config) { c.Validators[3].ID, c.NextID = id, 10 }, 1, 2)
		wantReason(t, CheckChange(current, change, sampleGenesis(3).Hash()), want)
	}
}

func TestApprovalIsBound(t *testing.T) {
	change := sampleChange(4, nil, 1, 2)
	wantReason(t, CheckChange(sampleConfig(4), change, testGenesis), NotAuthorised) // other chain
	change.Config.Params.BatchRecords++                                             // other config
	wantReason(t, CheckChange(sampleConfig(4), change, sampleGenesis(4).Hash()), NotAuthorised)
}

func TestDecodeConfigChange(t *testing.T) {
	want := sampleChange(4, nil, 1, 2)
	raw := want.Encode()
	got, err := DecodeConfigChange(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	_, err = DecodeConfigChange(append(raw, 0))
	wantReason(t, err, Malformed)
	_, err = DecodeConfigChange(raw[:len(raw)-1])
	wantReason(t, err, Malformed)
	_, err = DecodeConfigChange(make([]byte, MaxBody+1))
	wantReason(t, err, TooLarge)
	_, err = DecodeConfigChange(sampleChange(4, func(c *Config) { c.Threshold = 0 }).Encode())
	wantReason(t, err, Malformed)
	_, err = DecodeConfigChange(sampleChange(4, nil, slices.Repeat([]int{1}, 17)...).Encode())
	wantReason(t, err, Malformed)
}
