package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
)

// What was never a backup is not called a damaged one.
func TestBackupFault(t *testing.T) {
	_, err := parley.VerifyBackup(t.Context(), strings.NewReader("{\"title\": \"no archive\"}\n"), nil)
	if got := backupFault(t.Context(), "record.json", err).Error(); !strings.HasPrefix(got, "record.json is no backup: name a file") {
		t.Error(got)
	}
	if got := backupFault(t.Context(), "b.tar.zst", &parley.BackupError{Err: errors.New("cut")}).Error(); !strings.Contains(got, "the backup is damaged: cut") {
		t.Error(got)
	}
}
