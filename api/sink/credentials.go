package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

const maxCredentials = 64 << 10 // bytes

// credentials is the file that says who we are to a sink. It is read at each
// connection, so a changed one needs no restart; what is in it never enters an
// error or a log.
type credentials struct{ path string }

// openCredentials checks the file. Like the node's key, one in the data
// directory must be its owner's alone; elsewhere, as a mounted secret, it has
// the mode that it has.
func openCredentials(dir, name string, log *slog.Logger) (*credentials, error) {
	c := &credentials{name}
	if !filepath.IsAbs(name) {
		c.path = filepath.Join(dir, name)
	}
	info, err := os.Stat(c.path)
	if err != nil {
		return nil, fmt.Errorf("credentials_file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if !filepath.IsAbs(name) {
			return nil, fmt.Errorf("credentials_file: others may read %s: chmod 600 it [key_mode]", c.path)
		}
		log.Warn("others may read the credentials", "file", c.path)
	}
	if _, err := c.text(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *credentials) text() (string, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return "", fmt.Errorf("credentials_file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return "", fmt.Errorf("credentials_file: %w", err)
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || len(b) > maxCredentials {
		return "", fmt.Errorf("credentials_file: %s has %d bytes: want a line USER:PASSWORD, or a .creds file of NATS", c.path, len(b))
	}
	return string(b), nil
}

// isNATS tells of a .creds file, which holds a JWT and the seed of its key.
func (c *credentials) isNATS() (bool, error) {
	text, err := c.text()
	return strings.Contains(text, "BEGIN NATS USER JWT"), err
}

var errNoUser = errors.New("credentials_file: want one line USER:PASSWORD")

// user returns both parts of a line user:password.
func (c *credentials) user() (user, password string, err error) {
	text, err := c.text()
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || strings.ContainsAny(text, "\r\n") {
		return "", "", errNoUser
	}
	return user, password, nil
}
