package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley/api"
)

func tokenCommand(g *globals) *cobra.Command {
	var scope, sub string
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create", Short: "Make a token with the secret of the data directory", Args: cobra.NoArgs,
		Example: "parley token create --scope admin --ttl 24h --sub ops > token",
		RunE: func(c *cobra.Command, _ []string) error {
			if scope != "read" && scope != "admin" {
				return usage(c, fmt.Errorf("--scope %s: want read or admin", scope))
			}
			cfg, err := g.load()
			if err != nil {
				return err
			}
			token, err := api.NewToken(cfg.Config, sub, scope, ttl)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("make token: %w: the first start of a node makes it; name the directory of one with --data-dir", err)
			}
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("make token: %w: ask as the user that runs the node", err)
			}
			if err != nil {
				return fmt.Errorf("make token: %w", err)
			}
			if _, tty := terminal(g.out); tty {
				g.say("keep it in a file of mode 0600 and use it with --token-file")
			}
			_, err = fmt.Fprintln(g.out, token)
			return err
		},
	}
	create.Flags().StringVar(&scope, "scope", "read", "read or admin")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good, at most 8760h")
	create.Flags().StringVar(&sub, "sub", "cli", "who has it")
	c := &cobra.Command{Use: "token", Short: "Tokens of the API", Example: "parley token create --scope admin --ttl 24h\nparley token inspect --token-file token"}
	c.AddCommand(create, inspectCommand(g))
	return c
}

// inspected is what a token says, and whether it holds here.
type inspected struct {
	api.TokenInfo
	Signature string `json:"signature"`
	Valid     bool   `json:"valid"`
}

func inspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "inspect", Short: "What a token says, and whether the secret of the data directory signed it", Args: cobra.NoArgs,
		Long:    "The token is that of --token-file, else what comes on stdin. Exit code 4: it would be refused.",
		Example: "parley token inspect --token-file token\nparley token create | parley token inspect",
		RunE: func(*cobra.Command, []string) error {
			text, err := g.tokenText()
			if err != nil {
				return err
			}
			info, err := api.ReadToken(text)
			if err != nil {
				return fail(exitCheck, "%w", err)
			}
			v := inspected{TokenInfo: info}
			switch cfg, err := g.load(); {
			case err != nil:
				v.Signature = "not checked: " + err.Error()
			default:
				err := api.CheckToken(cfg.Config, text)
				v.Valid, v.Signature = err == nil, "good: this node's secret signed it"
				if err != nil {
					v.Signature = err.Error()
				}
			}
			bad := g.showValue(v, func() *table {
				return facts("subject", v.Subject, "scope", v.Scope, "issued", instant(v.IssuedAt), "ends", instant(v.ExpiresAt), "signature", v.Signature)
			})
			if bad == nil && !v.Valid {
				return fail(exitCheck, "the token would be refused: %s", v.Signature)
			}
			return bad
		},
	}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "not said"
	}
	return when(t)
}

// tokenText reads the token that is meant.
func (g *globals) tokenText() (string, error) {
	from := g.in
	if g.tokenFile != "" {
		f, err := os.Open(g.tokenFile)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		defer f.Close()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxToken))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
