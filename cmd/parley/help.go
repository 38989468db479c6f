package main

import (
	"fmt"
	"io"
	"strings"

	"charm.land/fang/v2"
	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const helpColumns = 100 // of help that goes to no terminal

// helper shows the help of commands.
type helper struct{ colors fang.ColorScheme }

// scheme is fang's own, kept for what the helper adds to a page.
func (h *helper) scheme(of lipgloss.LightDarkFunc) fang.ColorScheme {
	h.colors = fang.DefaultColorScheme(of)
	return h.colors
}

// show has fang show what is c's own: one sentence, how to call it, examples,
// flags. Below stand the names of the flags that every command has, whose
// meaning the root command tells, and then what else is to be said of c.
func (h *helper) show(c *cobra.Command, args []string) {
	notes := c.Long
	c.Long = ""
	var names []string
	var hidden []*pflag.Flag
	c.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || c.Root().PersistentFlags().Lookup(f.Name) != f {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + "/" + name
		}
		names, hidden = append(names, name), append(hidden, f)
		f.Hidden = true
	})
	c.Root().HelpFunc()(c, args)
	for _, f := range hidden {
		f.Hidden = false
	}
	c.Long = notes
	w := c.OutOrStdout()
	h.section(w, "flags of every command", strings.Join(names, " ")+"\n"+c.Root().Name()+" --help tells what they do.")
	if notes != "" {
		h.section(w, "notes", notes)
	}
}

// section is one more of the page that fang has begun.
func (h *helper) section(w io.Writer, title, text string) {
	const indent = 4
	l := layout{room: helpColumns}
	if room, tty := terminal(w); tty {
		l.room = min(room, helpColumns)
	}
	_, _ = lipgloss.Fprintln(w, lipgloss.NewStyle().Bold(true).Foreground(h.colors.Title).MarginLeft(2).Render(strings.ToUpper(title)))
	for _, line := range l.wrap(text, indent) {
		_, _ = fmt.Fprintln(w, strings.TrimRight(strings.Repeat(" ", indent)+line, " "))
	}
	_, _ = fmt.Fprintln(w)
}
