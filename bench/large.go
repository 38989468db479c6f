package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	largeEach  = 5 // messages of a round
	largePause = 200 * time.Millisecond
)

// largeCase is one large message from program to program, which the receiver's
// judges, beside the same bytes over a connection of TCP.
type largeCase struct {
	Bytes  int    `json:"bytes"`
	OursMS figure `json:"ours_ms"` // medians of the rounds
	RawMS  figure `json:"raw_ms"`
}

func measureLarge(ctx context.Context, dir string, p sidecarPlan, say *progress) (cases []largeCase, err error) {
	if len(p.Large) == 0 {
		return nil, nil
	}
	ours, err := openPrograms(ctx, dir, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	for _, bytes := range p.Large {
		c := largeCase{Bytes: bytes}
		if _, err := alone(ctx, ours, bytes); err != nil { // the first one waits for the mesh
			return nil, err
		}
		for range p.Rounds {
			took, err := alone(ctx, ours, bytes)
			if err != nil {
				return nil, fmt.Errorf("%d bytes: %w", bytes, err)
			}
			c.OursMS.add(took.median())
			if took, err = plainTCP(ctx, bytes); err != nil {
				return nil, err
			}
			c.RawMS.add(took.median())
		}
		cases = append(cases, c)
		say.done("sidecar: %d bytes in %s ms, raw %s", bytes, c.OursMS.text(), c.RawMS.text())
	}
	return cases, nil
}

// alone sends messages of which each waits for the one before it.
func alone(ctx context.Context, l carrier, bytes int) (took figure, err error) {
	ctx, cancel := context.WithTimeout(ctx, sidecarLimit)
	defer cancel()
	for range largeEach {
		one, err := carry(ctx, l, 1, bytes, 0)
		if err != nil {
			return nil, err
		}
		took.add(one[0])
		time.Sleep(largePause)
	}
	return took, nil
}

// plainTCP sends as many bytes over loopback, and back one byte when they are there.
func plainTCP(ctx context.Context, bytes int) (took figure, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // who cannot dial leaves nobody to wait
	g.Go(func() error {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		data := make([]byte, bytes)
		for range largeEach {
			if _, err := io.ReadFull(c, data); err != nil {
				return err
			}
			if _, err := c.Write(data[:1]); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		for i := range largeEach {
			data := numberedMessage(1, i, bytes)
			begin := time.Now()
			if _, err := c.Write(data); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, data[:1]); err != nil {
				return err
			}
			took.add(ms(time.Since(begin)))
		}
		return nil
	})
	return took, g.Wait()
}

func largeTable(cases []largeCase) string {
	if len(cases) == 0 {
		return ""
	}
	var b strings.Builder
	put := func(text, ours, raw string) {
		b.WriteString(pad(text, 34, false) + pad(ours, 22, true) + pad(raw, 24, true) + "\n")
	}
	b.WriteString("\n")
	put("large message, with a verdict", "ours, over gRPC", "raw TCP")
	b.WriteString(strings.Repeat("─", 80) + "\n")
	for _, c := range cases {
		put(fmt.Sprintf("%d MiB: publish to receive, ms", c.Bytes>>20), c.OursMS.text(), c.RawMS.text())
	}
	return b.String()
}
