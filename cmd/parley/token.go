package main

import (
	"errors"
	"fmt"
	"io/fs"
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
			cfg, err := g.load(nil)
			if err != nil {
				return err
			}
			token, err := api.NewToken(cfg.Config, sub, scope, ttl)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("make token: %w: the first start of a node makes it; name the directory of one with --data-dir", err)
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
	c := &cobra.Command{Use: "token", Short: "Tokens of the API", Example: "parley token create --scope admin --ttl 24h"}
	c.AddCommand(create)
	return c
}
