package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// restPlan says how much is asked.
type restPlan struct {
	Conns  []int         `json:"connections"`
	Rounds int           `json:"rounds"`
	Round  time.Duration `json:"-"` // of one side
}

// restRow is GET /api/v1/status over connections that are kept.
type restRow struct {
	Bytes int        `json:"bytes"` // of the answer's body
	Cases []restCase `json:"cases"`
}

// restCase is one number of connections. CPU is that of the server's process.
type restCase struct {
	Conns  int    `json:"connections"`
	OursPS figure `json:"ours_s"`
	BarePS figure `json:"bare_s"` // net/http with a handler that writes the same answer
	OursUS figure `json:"ours_us"`
	BareUS figure `json:"bare_us"`
	Ratio  figure `json:"ratio_bare"` // of requests a second
}

const (
	statusPath = "/api/v1/status"
	maxBodyOf  = 1 << 20
)

func (b *bench) measureRest(ctx context.Context, r *report) error {
	row, err := measureRest(ctx, filepath.Join(b.dir, "rest"), r.Plan.Rest, b.progress())
	if err == nil {
		r.Rest = row
	}
	return err
}

func measureRest(ctx context.Context, dir string, p restPlan, say *progress) (row *restRow, err error) {
	row = &restRow{}
	var ours, bare *server
	for kind, s := range map[string]**server{serverNode: &ours, serverBare: &bare} {
		if *s, err = startServer(ctx, kind, filepath.Join(dir, kind)); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, (*s).stop()) }()
	}
	same, err := answerOf(ctx, "http://"+ours.addr+statusPath)
	if err != nil {
		return nil, err
	}
	row.Bytes = len(same.Body)
	if _, err := bare.do(order{Answer: same}); err != nil {
		return nil, err
	}
	for _, n := range p.Conns {
		c := restCase{Conns: n}
		for range p.Rounds {
			for _, side := range []struct {
				*server
				rate, cpu *figure
			}{{ours, &c.OursPS, &c.OursUS}, {bare, &c.BarePS, &c.BareUS}} {
				perS, us, err := side.ask(ctx, n, p.Round)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", side.kind, err)
				}
				side.rate.add(perS)
				side.cpu.add(us)
			}
			say.now("rest: %d connections", n)
		}
		c.Ratio = c.OursPS.over(c.BarePS)
		row.Cases = append(row.Cases, c)
		say.done("rest: %s requests/s over %d connections, bare %s", c.OursPS.text(), n, c.BarePS.text())
	}
	return row, nil
}

// answerOf is what a server answers, without what net/http adds by itself.
func answerOf(ctx context.Context, url string) (*constant, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBodyOf))
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %w", url, res.Status, err)
	}
	for _, name := range []string{"Date", "Connection", "Content-Length"} {
		res.Header.Del(name)
	}
	return &constant{res.Header, body}, nil
}

// ask sends requests over n connections for a while, one after the other on
// each. us is the server's CPU time a request.
func (s *server) ask(ctx context.Context, n int, during time.Duration) (perS, us float64, err error) {
	conns := make([]net.Conn, n)
	for i := range conns {
		if conns[i], err = (&net.Dialer{}).DialContext(ctx, "tcp", s.addr); err != nil {
			return 0, 0, err
		}
		defer conns[i].Close()
	}
	before, err := s.do(order{})
	if err != nil {
		return 0, 0, err
	}
	counts := make([]int, n)
	begin := time.Now()
	end := begin.Add(during)
	var g errgroup.Group
	for i, conn := range conns {
		g.Go(func() error {
			c := asker{conn, bufio.NewReader(conn), []byte("GET " + statusPath + " HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n")}
			for time.Now().Before(end) {
				if err := c.ask(); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	took := time.Since(begin)
	after, err := s.do(order{})
	if err != nil {
		return 0, 0, err
	}
	sum := 0
	for _, count := range counts {
		sum += count
	}
	return float64(sum) / took.Seconds(), float64(after-before) / 1e3 / float64(sum), nil
}

// asker is one connection. It does as little as it can, for it shares the cores
// with the server.
type asker struct {
	conn    net.Conn
	read    *bufio.Reader
	request []byte
}

func (a *asker) ask() error {
	if _, err := a.conn.Write(a.request); err != nil {
		return err
	}
	size, status := -1, true
	for {
		line, err := a.read.ReadSlice('\n')
		if err != nil {
			return err
		}
		if status {
			if !strings.HasPrefix(string(line), "HTTP/1.1 200 ") {
				return fmt.Errorf("answered %q", line)
			}
			status = false
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := strings.Cut(string(line), ":")
		if strings.EqualFold(name, "content-length") {
			if _, err := fmt.Sscan(value, &size); err != nil {
				return fmt.Errorf("header %q: %w", line, err)
			}
		}
	}
	if size < 0 {
		return errors.New("an answer without its length")
	}
	_, err := a.read.Discard(size)
	return err
}

// restTable is the result for people.
func (r *report) restTable() string {
	row := r.Rest
	if row == nil {
		return ""
	}
	var b strings.Builder
	line := func(text string, cells ...string) {
		b.WriteString(pad(text, 31, false))
		for _, c := range cells {
			b.WriteString(pad(c, 23, true))
		}
		b.WriteString("\n")
	}
	line(fmt.Sprintf("GET status, %d B of JSON", row.Bytes), "ours", "bare net/http", "of it, %")
	b.WriteString(strings.Repeat("─", 100) + "\n")
	for _, c := range row.Cases {
		line(fmt.Sprintf("requests/s, %s", plural(c.Conns, "connection")), c.OursPS.text(), c.BarePS.text(), percent(c.Ratio))
		line("  server's CPU us a request", c.OursUS.text(), c.BareUS.text(), percent(c.OursUS.over(c.BareUS)))
	}
	return b.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
