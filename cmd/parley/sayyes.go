package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// sayYes is what to add to the command that runs so that it does not ask, or,
// where names stood for nodes, the whole command with their peer ids: with
// --yes nobody looks at what a name stands for.
func (f *changeFlags) sayYes() string {
	if len(f.named) == 0 {
		return "--yes"
	}
	words := strings.Fields(f.command.CommandPath())
	for _, arg := range f.args {
		words = append(words, f.idOf(arg))
	}
	f.command.Flags().Visit(func(fl *pflag.Flag) {
		many, isList := fl.Value.(pflag.SliceValue)
		switch {
		case isList:
			for _, value := range many.GetSlice() {
				words = append(words, "--"+fl.Name, f.idOf(value))
			}
		case fl.Value.Type() == "bool":
			words = append(words, "--"+fl.Name+"="+fl.Value.String())
		default:
			words = append(words, "--"+fl.Name, fl.Value.String())
		}
	})
	for i, word := range words {
		words[i] = shellWord(word)
	}
	return strings.Join(append(slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--yes") }), "--yes"), " ")
}

func (f *changeFlags) idOf(arg string) string {
	if id, ok := f.named[arg]; ok {
		return id
	}
	return arg
}

// shellWord quotes what a shell would not take as one word.
func shellWord(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
