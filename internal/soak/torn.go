package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

const maxTear = 20 // bytes

// tearTail appends to the newest file of a glob in dir what a write that was
// cut short leaves: the first bytes of an entry, or zeros. torn is false where
// there is no file to tear.
func tearTail(dir, glob string, r *rand.Rand) (torn bool, err error) {
	files, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil || len(files) == 0 {
		return false, err
	}
	path := slices.Max(files) // their names are numbers
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("tear %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("tear %s: %w", path, err)
	}
	piece := make([]byte, 1+r.IntN(maxTear)) // zeros
	if r.IntN(2) == 0 {
		for i := range piece {
			piece[i] = byte(r.Uint32())
		}
		// A length in the first bytes says that most of the entry is missing.
		copy(piece, []byte{maxTear * 10, 0, 0, 0})
	}
	if _, err := f.WriteAt(piece, info.Size()); err != nil {
		return false, fmt.Errorf("tear %s: %w", path, err)
	}
	return true, nil
}
