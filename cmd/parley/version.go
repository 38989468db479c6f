package main

import (
	_ "embed"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

// licenses is made by scripts/licenses.
//
//go:embed licenses.txt
var licenses string

func versionCommand(g *globals) *cobra.Command {
	var texts bool
	c := &cobra.Command{
		Use: "version", Short: "What this binary is", Args: cobra.NoArgs, Example: "parley version --json\nparley version --licenses",
		RunE: func(*cobra.Command, []string) error {
			if texts {
				_, err := io.WriteString(g.out, licenses)
				return err
			}
			v := parley.BuildVersion()
			return g.showValue(v, func() *table {
				commit := v.Commit
				if commit == "" {
					commit = "unknown"
				}
				return facts("version", v.Version, "commit", commit, "go", v.Go, "system", v.OS+"/"+v.Arch, "api", fmt.Sprint(v.API))
			})
		},
	}
	c.Flags().BoolVar(&texts, "licenses", false, "the licences of all modules that are linked into it")
	return c
}
