package consensus

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"
)

// delayed hands on each write after a while, in order.
type delayed struct {
	net.Conn
	delay func() time.Duration
	queue chan parcel
	gone  chan struct{}
	once  sync.Once
}

type parcel struct {
	data []byte
	due  time.Time
}

func slow(c net.Conn, delay func() time.Duration, wg *sync.WaitGroup) net.Conn {
	d := &delayed{Conn: c, delay: delay, queue: make(chan parcel, 10_000), gone: make(chan struct{})}
	wg.Go(func() {
		for {
			select {
			case <-d.gone:
				return
			case p := <-d.queue:
				wait(context.Background(), d.gone, time.Until(p.due))
				if _, err := d.Conn.Write(p.data); err != nil {
					_ = d.Close()
				}
			}
		}
	})
	return d
}

func (d *delayed) Write(b []byte) (int, error) {
	select {
	case <-d.gone:
		return 0, net.ErrClosed
	case d.queue <- parcel{bytes.Clone(b), time.Now().Add(d.delay())}:
		return len(b), nil
	}
}

func (d *delayed) Close() error {
	d.once.Do(func() { close(d.gone) })
	return d.Conn.Close()
}
