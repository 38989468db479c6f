package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"

	"github.com/parley-p2p/parley/api"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// serverEnv names the server that this process is to be: those that are
// compared stand in processes of their own, so that their CPU time is theirs.
const serverEnv = "PARLEY_BENCH_SERVER"

// Servers of the bench.
const (
	serverNode = "node" // a whole node with its API
	serverGws  = "gws"  // broadcasts with lxzan/gws
	serverRaw  = "raw"  // writes the same frames to bare sockets
	serverBare = "bare" // net/http with the handler of a constant answer
	serverSide = "side" // a node of a sidecar network with its API
	serverSub  = "sub"  // a host with pubsub that tells which messages came
	serverSure = "sure" // the same, with a validator
)

// dataIn is the data directory of a server, in its own.
const dataIn = "data"

// order is what a server is told on a line of its input. It answers each with
// a reply when it is done.
type order struct {
	Events int           `json:"events,omitempty"`
	Bytes  int           `json:"bytes,omitempty"` // of the JSON of one
	Every  time.Duration `json:"every,omitempty"` // 0 = all at once
	Type   string        `json:"type,omitempty"`

	Answer *constant `json:"answer,omitempty"` // from now on; bare alone

	Connect string `json:"connect,omitempty"` // to this address of libp2p; nodes and hosts alone
}

// constant is a whole answer of HTTP.
type constant struct {
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

type reply struct {
	Addr  string        `json:"addr,omitempty"` // of HTTP; in the first one
	P2P   string        `json:"p2p,omitempty"`  // of a node; in the first one
	CPU   time.Duration `json:"cpu"`            // of the process, since its start
	Error string        `json:"error,omitempty"`
}

// ticked is an event as large as is asked for. Its type is that of the order.
type ticked struct {
	At  int64  `json:"at"` // unix ns
	Pad string `json:"pad"`

	name string
}

func (t ticked) Type() string { return t.name }

// newTicked is an event whose envelope is about bytes long.
func newTicked(name string, bytes int) (ticked, error) {
	bare, err := json.Marshal(envelopeOf(1<<50, ticked{At: time.Now().UnixNano(), name: name}))
	if err != nil || len(bare) > bytes {
		return ticked{}, fmt.Errorf("event of %d bytes: an empty one has %d: %w", bytes, len(bare), err)
	}
	return ticked{Pad: strings.Repeat("x", bytes-len(bare)), name: name}, nil
}

func envelopeOf(seq uint64, t ticked) event.Envelope {
	return event.Envelope{V: 1, Seq: seq, TS: time.Now().UTC().Truncate(time.Millisecond), Type: t.name, Data: t}
}

// runServer is the main of a server's process: until its input ends it obeys.
func runServer(ctx context.Context, kind, dir string, in io.Reader, out io.Writer) (err error) {
	say, hear := json.NewEncoder(out), json.NewDecoder(in)
	var obey func(order) error
	var addr, p2p string
	var stop func() error
	switch kind {
	case serverNode, serverSide:
		addr, p2p, obey, stop, err = serveNode(ctx, dir, kind == serverSide)
	case serverGws:
		addr, obey, stop, err = serveGws(ctx)
	case serverRaw:
		addr, obey, stop, err = serveRaw(ctx)
	case serverBare:
		addr, obey, stop, err = serveBare(ctx)
	case serverSub, serverSure:
		addr, obey, stop, err = serveSub(ctx, kind == serverSure)
	default:
		return fmt.Errorf("%s=%s: no such server", serverEnv, kind)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := say.Encode(reply{Addr: addr, P2P: p2p}); err != nil {
		return err
	}
	for {
		var o order
		if err := hear.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := reply{}
		if err := obey(o); err != nil {
			r.Error = err.Error()
		}
		r.CPU = cpuTime()
		if err := say.Encode(r); err != nil {
			return err
		}
	}
}

// paced makes the events of an order, at its pace.
func paced(o order, give func(ticked) error) error {
	t, err := newTicked(o.Type, max(o.Bytes, 1))
	if err != nil && o.Events > 0 {
		return err
	}
	begin := time.Now()
	for i := range o.Events {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * o.Every)))
		t.At = time.Now().UnixNano()
		if err := give(t); err != nil {
			return err
		}
	}
	return nil
}

// serveNode runs a whole node with its API; events enter at its bus.
func serveNode(ctx context.Context, dir string, sidecar bool) (addr, p2p string, obey func(order) error, stop func() error, err error) {
	n, err := startNodeWith(ctx, dir, func(c *config.Config) {
		c.API.MaxClients = 1 << 16
		if sidecar {
			c.Network, c.NetworkName = config.NetworkSidecar, "bench"
			c.Sidecar.MaxMessage, c.Sidecar.ValidateTimeout = sidecarMost, 5*time.Second // in which the program gets 10 MiB
		}
	})
	if err != nil {
		return "", "", nil, nil, err
	}
	s, err := api.New(n.Node, api.Options{})
	if err != nil {
		return "", "", nil, nil, errors.Join(err, n.stop())
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() error {
		cancel()
		return errors.Join(<-done, n.stop())
	}
	for _, l := range n.Listeners() {
		if l.Addr().Network() == "tcp" {
			addr = l.Addr().String()
		}
	}
	obey = func(o order) error {
		if o.Connect != "" {
			_, err := n.ConnectPeer(ctx, o.Connect)
			return err
		}
		return paced(o, func(t ticked) error {
			n.Events().Publish(t)
			return nil
		})
	}
	return addr, n.addr, obey, stop, nil
}

// serveGws broadcasts as the library's own documentation has it.
func serveGws(ctx context.Context) (addr string, obey func(order) error, stop func() error, err error) {
	var mu sync.Mutex
	var conns []*gws.Conn
	up := gws.NewUpgrader(pinged{}, nil)
	addr, stop, err = serveHTTP(ctx, func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r)
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		go c.ReadLoop()
	})
	return addr, told(&mu, func(text []byte) error {
		b := gws.NewBroadcaster(gws.OpcodeText, text)
		defer b.Close()
		for _, c := range conns {
			if err := b.Broadcast(c); err != nil {
				return err
			}
		}
		return nil
	}), stop, err
}

// pinged answers pings.
type pinged struct{ gws.BuiltinEventHandler }

// serveRaw is the limit: one goroutine, one frame, one write call a client.
func serveRaw(ctx context.Context) (addr string, obey func(order) error, stop func() error, err error) {
	var mu sync.Mutex
	var conns []net.Conn
	addr, stop, err = serveHTTP(ctx, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
	})
	return addr, told(&mu, func(text []byte) error {
		frame := textFrame(text)
		for _, c := range conns {
			if _, err := c.Write(frame); err != nil {
				return err
			}
		}
		return nil
	}), stop, err
}

// told obeys by sending each event in the form of ours; mu is held meanwhile.
func told(mu *sync.Mutex, send func(text []byte) error) func(order) error {
	seq := uint64(1 << 50)
	return func(o order) error {
		mu.Lock()
		defer mu.Unlock()
		return paced(o, func(t ticked) error {
			seq++
			text, err := json.Marshal(envelopeOf(seq, t))
			if err != nil {
				return err
			}
			return send(text)
		})
	}
}

// textFrame is text as a WebSocket frame of a server.
func textFrame(text []byte) []byte {
	if len(text) < 126 {
		return append([]byte{0x81, byte(len(text))}, text...)
	}
	return append([]byte{0x81, 126, byte(len(text) >> 8), byte(len(text))}, text...) // below 64 KiB
}

// serveBare answers every request with the answer of the last order.
func serveBare(ctx context.Context) (addr string, obey func(order) error, stop func() error, err error) {
	var mu sync.RWMutex
	var now constant
	addr, stop, err = serveHTTP(ctx, func(w http.ResponseWriter, _ *http.Request) {
		mu.RLock()
		a := now
		mu.RUnlock()
		maps.Copy(w.Header(), a.Header)
		_, _ = w.Write(a.Body)
	})
	obey = func(o order) error {
		if o.Answer != nil {
			mu.Lock()
			defer mu.Unlock()
			now = *o.Answer
		}
		return nil
	}
	return addr, obey, stop, err
}

// serveHTTP serves h on a free port of loopback.
func serveHTTP(ctx context.Context, h http.HandlerFunc) (addr string, stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return l.Addr().String(), func() error {
		err := s.Close()
		if end := <-done; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}, nil
}

// server is one in a process of its own.
type server struct {
	kind string
	addr string
	p2p  string
	data string // directory
	cmd  *exec.Cmd
	in   io.WriteCloser
	say  *json.Encoder
	hear *json.Decoder
}

// startServer runs this binary once more, as a server. dir is for its data.
func startServer(ctx context.Context, kind, dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &server{kind: kind, cmd: exec.CommandContext(ctx, self)}
	s.cmd.Dir, s.cmd.Stderr, s.cmd.Env = dir, os.Stderr, append(os.Environ(), serverEnv+"="+kind)
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.say, s.hear = json.NewEncoder(s.in), json.NewDecoder(out)
	var first reply
	if err := s.hear.Decode(&first); err != nil {
		return nil, errors.Join(fmt.Errorf("server %s does not start: %w", kind, err), s.stop())
	}
	s.addr, s.p2p, s.data = first.Addr, first.P2P, filepath.Join(dir, dataIn)
	return s, nil
}

// do gives an order and waits until it is done. cpu is the CPU time of the
// process then.
func (s *server) do(o order) (cpu time.Duration, err error) {
	if err := s.say.Encode(o); err != nil {
		return 0, fmt.Errorf("server %s: %w", s.kind, err)
	}
	var r reply
	if err := s.hear.Decode(&r); err != nil {
		return 0, fmt.Errorf("server %s: %w", s.kind, err)
	}
	if r.Error != "" {
		return 0, fmt.Errorf("server %s: %s", s.kind, r.Error)
	}
	return r.CPU, nil
}

func (s *server) stop() error {
	_ = s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("server %s: %w", s.kind, err)
	}
	return nil
}

// beServer runs the server that the environment asks for, and tells whether it
// asks for one.
func beServer() bool {
	kind := os.Getenv(serverEnv)
	if kind == "" {
		return false
	}
	if err := runServer(context.Background(), kind, dataIn, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench: server "+kind+":", err)
		os.Exit(1)
	}
	return true
}
