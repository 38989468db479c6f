package main

import (
	"context"

	"github.com/parley-p2p/parley/api/sink"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// delivery runs the event sinks, and others in their place when [[sink]] was
// read again.
type delivery struct {
	options sink.Options
	bus     *event.Bus
	now     *sink.Sinks        // run only
	next    chan []config.Sink // holds the newest
}

func (d *delivery) open(sinks []config.Sink, bus *event.Bus) error {
	d.bus = bus
	var err error
	d.now, err = sink.New(sinks, bus, d.options)
	return err
}

// take is for [[sink]] that was read again: one reload at a time.
func (d *delivery) take(cfg config.Config) (act func(), err error) {
	if err := sink.Check(cfg.Sinks, d.options); err != nil {
		return nil, err
	}
	return func() {
		select { // what was not begun yet is old
		case <-d.next:
		default:
		}
		d.next <- cfg.Sinks
	}, nil
}

// run delivers until ctx ends. Sinks that were read again go on where those of
// the same url and subject came to, also where there were none between them
// because some could not start.
func (d *delivery) run(ctx context.Context) error {
	for {
		again, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- d.now.Run(again) }()
		var sinks []config.Sink
		select {
		case sinks = <-d.next:
		case err := <-done:
			stop()
			return err
		}
		stop()
		if err := <-done; err != nil || ctx.Err() != nil {
			return err
		}
		o := d.options
		o.After = d.now
		var err error
		if d.now, err = sink.New(sinks, d.bus, o); err != nil { // its files changed since they were looked at
			d.options.Log.Error("sinks that were read again cannot start: there is none until the next reload", "room", "api.sink", "err", err)
			d.now = sink.Hold(d.bus, o)
			continue
		}
		d.options.Log.Info("sinks changed", "room", "api.sink", "sinks", len(sinks))
	}
}
