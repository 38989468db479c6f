// Command library owns an example: a program that has a parley node inside it,
// without the daemon. It is a chat: each line of its input goes to all, and what
// others say is printed.
//
//	go run ./examples/library --data-dir ada
//	go run ./examples/library --data-dir ben --peers ADDRESS   # as the first one prints it
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

const (
	topic   = "chat"
	maxLine = 1024 // bytes
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch err := chat(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// errUsage means that the arguments are wrong; it was said already.
var errUsage = errors.New("wrong usage")

// chat runs until ctx ends or in does.
func chat(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	flags := flag.NewFlagSet("library", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Usage = func() {
		fmt.Fprintln(log, "usage: library [--data-dir DIR] [--peers ADDRESS,…] [--listen MULTIADDR]; each line of the input goes to all")
		flags.PrintDefaults()
	}
	dir := flags.String("data-dir", "chat", "where the node keeps its key and what it learned")
	peers := flags.String("peers", "", "addresses of other nodes, by comma")
	listen := flags.String("listen", "/ip4/127.0.0.1/tcp/0", "multiaddr")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(log, "%q: want flags alone; other nodes are named by --peers\n", flags.Arg(0))
		flags.Usage()
		return errUsage
	}
	// Load checks what it is given, as for the daemon.
	loaded, err := config.Load(config.LoadArgs{Dir: *dir, Flags: map[string]string{
		"network": config.NetworkSidecar, "network_name": "chat", "profile": config.ProfileDevnet, // devnet: the port may be any
		"data_dir": *dir, "p2p.static_peers": *peers, "p2p.listen": *listen, "api.listen": "", "ops.listen": "",
		"sidecar.topics": fmt.Sprintf("%s:%dB", topic, maxLine),
	}})
	if err != nil {
		return err
	}
	node, err := parley.New(loaded.Config, parley.Env{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))}) //nolint:contextcheck // it starts nothing
	if err != nil {
		return err
	}
	for _, l := range node.Listeners() { // of the API, which nobody serves here
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, talk(ctx, node, in, out), node.Close()) //nolint:contextcheck // it waits for nobody
}

// talk runs the node with its program.
func talk(ctx context.Context, node *parley.Node, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		err := node.Run(ctx)
		cancel()
		ended <- err
	}()
	defer cancel()
	for _, addr := range node.Info().Advertised {
		fmt.Fprintln(out, "address", addr)
	}
	err := program(ctx, cancel, node, in, out)
	cancel()
	if ran := <-ended; ran != nil {
		return ran
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// program attaches to the node and lives until ctx ends.
func program(ctx context.Context, cancel context.CancelFunc, node *parley.Node, in io.Reader, out io.Writer) error {
	hello := parley.ProgramHello{Name: "chat", API: parley.ProgramAPI, Topics: []parley.ProgramTopic{{Name: topic, MaxBytes: maxLine, Validate: true}}}
	p, err := node.Attach(ctx, hello)
	if err != nil {
		return err
	}
	defer p.Close()
	var mu sync.Mutex // guards out
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
	}
	go func() {
		defer cancel()
		for lines := bufio.NewScanner(in); lines.Scan(); {
			if _, err := node.PublishMessage(ctx, topic, lines.Bytes()); err != nil {
				say("not sent: %v", err)
			}
		}
	}()
	for {
		item, err := p.Next(ctx)
		if err != nil {
			return err
		}
		switch item := item.(type) {
		case parley.ProgramStatusOf:
			say("peer %s is there", item.Peer)
		case parley.ProgramPeerGone:
			say("peer %s is gone: %s", item.Peer, item.Reason)
		case parley.ProgramValidate: // what is relayed is for us to say
			if text := string(item.Data); strings.TrimSpace(text) != "" {
				say("%s", text)
				err = p.Verdict(item.ID, parley.VerdictAccept, "")
			} else {
				err = p.Verdict(item.ID, parley.VerdictReject, "malformed")
			}
		}
		if err != nil {
			return err
		}
	}
}
