package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// Who is asked and has no terminal reads the command that does it.
func TestSayYesIsTheWholeCommand(t *testing.T) {
	f := &changeFlags{globals: &globals{}}
	validators := &cobra.Command{Use: "validators"}
	add := &cobra.Command{Use: "add ID…", Run: func(*cobra.Command, []string) {}}
	validators.AddCommand(add)
	add.Flags().BoolVar(&f.yes, "yes", false, "")
	add.Flags().BoolVar(&f.force, "force", false, "")
	add.Flags().StringVar(&f.out, "out", "", "")
	add.Flags().StringArrayVar(&f.addAdmins, "add-admin", nil, "")
	if err := add.ParseFlags([]string{"node4", "--force", "--add-admin", "node5", "--out", "a b", "--yes=false"}); err != nil {
		t.Fatal(err)
	}
	f.command, f.args = add, add.Flags().Args()
	if got := f.sayYes(); got != "--yes" {
		t.Errorf("without a name: %s", got)
	}
	f.named = map[string]string{"node4": "12D3KooW4", "node5": "12D3KooW5"}
	if got, want := f.sayYes(), "validators add 12D3KooW4 --add-admin 12D3KooW5 --force=true --out 'a b' --yes"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
