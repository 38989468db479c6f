package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"

	"charm.land/fang/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const helpColumns = 100 // at most, of help on a terminal; elsewhere it has lineWidth

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
	l := layout{room: helpRoom(w)}
	_, _ = lipgloss.Fprintln(w, lipgloss.NewStyle().Bold(true).Foreground(h.colors.Title).MarginLeft(2).Render(strings.ToUpper(title)))
	for _, line := range l.wrap(text, indent) {
		_, _ = fmt.Fprintln(w, strings.TrimRight(strings.Repeat(" ", indent)+line, " "))
	}
	_, _ = fmt.Fprintln(w)
}

func helpRoom(w any) int {
	if room, tty := terminal(w); tty {
		return min(room, helpColumns)
	}
	return lineWidth
}

// helpPage is where fang writes help. It wraps no rows: here what is too long goes
// on below the text that it belongs to.
type helpPage struct {
	to    io.Writer
	begun []byte // of a line
	plain bool   // no help
}

// filePage is one on a file, which fang asks whether it is a terminal.
type filePage struct {
	term.File
	*helpPage
}

func (f filePage) Write(b []byte) (int, error) { return f.helpPage.Write(b) }

// newHelpPage returns the page and the face of it to write to.
func newHelpPage(w io.Writer) (*helpPage, io.Writer) {
	p := &helpPage{to: w}
	if f, is := w.(term.File); is {
		return p, filePage{f, p}
	}
	return p, p
}

func (p *helpPage) Write(b []byte) (int, error) {
	if p.plain {
		return p.to.Write(b)
	}
	p.begun = append(p.begun, b...)
	end := bytes.LastIndexByte(p.begun, '\n') + 1
	var out strings.Builder
	for line := range strings.Lines(string(p.begun[:end])) {
		out.WriteString(hang(strings.TrimRight(line, " \n"), helpRoom(p.to)) + "\n")
	}
	p.begun = p.begun[end:]
	_, err := io.WriteString(p.to, out.String())
	return len(b), err
}

var besideKey = regexp.MustCompile(`^ +(?:\S+ )*\S+ {2,}|^ *`)

// hang breaks a line that has more columns than room, and indents the rest as
// its text is.
func hang(line string, room int) string {
	bare := strings.TrimRight(ansi.Strip(line), " ")
	if ansi.StringWidth(bare) <= room {
		return line
	}
	indent := ansi.StringWidth(besideKey.FindString(bare))
	l := layout{room: room}
	rest := l.wrap(ansi.Cut(line, indent, ansi.StringWidth(bare)), indent)
	return ansi.Cut(line, 0, indent) + strings.Join(rest, "\n"+strings.Repeat(" ", indent))
}
