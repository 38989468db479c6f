package ledger

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sealedFS is a disk that can not be written. Its lock is one for readers: a
// node whose disk is read-only to us alone still holds its own. Where there is
// no file to lock, no node was ever there.
type sealedFS struct{ vfs.FS }

// Lock implements [vfs.FS].
func (s sealedFS) Lock(name string) (io.Closer, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_RDLCK, Whence: io.SeekStart}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
