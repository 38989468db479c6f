package replica

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// forkFile is the evidence of a fork: two headers, each with its certificate.
// Anybody can check it with the validators' keys.
type forkFile struct {
	Genesis string     `json:"genesis"`
	Sides   []forkSide `json:"sides"`
}

type forkSide struct {
	Height      uint64 `json:"height"`
	Hash        string `json:"hash"`
	Header      string `json:"header"`      // hex
	Certificate string `json:"certificate"` // hex
}

// keepFork writes the evidence of a fork into the data directory, once, and
// makes a finding of it. It does nothing for other errors.
func (r *Replica) keepFork(err error) {
	var fork *ledger.ForkError
	if !errors.As(err, &fork) || fork.Theirs == nil {
		return
	}
	if fork.Ours != nil && len(fork.OursCert.Votes) == 0 {
		_, fork.OursCert, _ = r.ledger.Header(fork.Ours.Height)
	}
	f := forkFile{Genesis: fork.Theirs.Genesis.String()}
	for _, side := range []struct {
		h    *consortium.Header
		cert consortium.Certificate
	}{{fork.Ours, fork.OursCert}, {fork.Theirs, fork.TheirsCert}} {
		if side.h != nil {
			f.Sides = append(f.Sides, forkSide{
				Height: side.h.Height, Hash: side.h.Hash().String(),
				Header: hex.EncodeToString(side.h.Encode()), Certificate: hex.EncodeToString(side.cert.Encode()),
			})
		}
	}
	path := filepath.Join(r.cfg.DataDir, fmt.Sprintf("fork-%d-%s.json", fork.Theirs.Height, fork.Theirs.Hash().Short()))
	r.findings.set(Finding{Code: "PLY-602", Severity: severityCrit, Title: "fork", Why: fmt.Sprintf("%v: this node halts, the evidence is %s", err, path)})
	b, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = writeNew(path, append(b, '\n'))
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		r.log.Error("evidence of a fork not kept", "path", path, "evidence", string(b), "err", err)
		return
	}
	r.log.Error("fork", "height", fork.Theirs.Height, "evidence", path)
}

// writeNew writes a file that was not there, synced.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
