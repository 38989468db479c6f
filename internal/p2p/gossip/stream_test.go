package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
)

// pipe is a stream that keeps what is written and gives what is to be read, a
// piece at a time.
type pipe struct {
	network.Stream
	writes [][]byte
	fails  error
	pieces [][]byte
	reads  int
}

func (p *pipe) Write(b []byte) (int, error) {
	if p.fails != nil {
		return 0, p.fails
	}
	p.writes = append(p.writes, bytes.Clone(b))
	return len(b), nil
}

func (p *pipe) Read(b []byte) (int, error) {
	p.reads++
	if len(p.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.pieces[0])
	if p.pieces[0] = p.pieces[0][n:]; len(p.pieces[0]) == 0 {
		p.pieces = p.pieces[1:]
	}
	return n, nil
}

func (p *pipe) Close() error { return nil }

// framed is an RPC as it is written, with a message of n bytes or none.
func framed(t testing.TB, n int) []byte {
	t.Helper()
	rpc := &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: new("t")}}}
	if n > 0 {
		rpc = &pb.RPC{Publish: []*pb.Message{{Topic: new("t"), Data: make([]byte, n)}}}
	}
	b, err := proto.Marshal(rpc)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
}

// RPCs behind which others wait go out together, in their order and up to a
// size; none is kept for one that does not come, and a write that fails is told.
func TestWritesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := &pipe{}, newCredit()
		o := newOutbound(p, c, "p", func(*outbound) {})
		small, large, control := framed(t, 100), framed(t, 2*sentTogether), framed(t, 0)
		queued := func(n int) {
			for range n {
				c.queued("p", 100, 100, time.Now())
			}
		}
		write := func(list ...[]byte) {
			for _, b := range list {
				if n, err := o.Write(b); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		sent := func(list ...[]byte) {
			t.Helper()
			if len(p.writes) != 1 || !bytes.Equal(p.writes[0], bytes.Join(list, nil)) {
				t.Errorf("%d writes, want one of %d bytes", len(p.writes), len(bytes.Join(list, nil)))
			}
			p.writes = nil
		}
		queued(1)
		write(small)
		sent(small)
		queued(3)
		write(small, control, small)
		if len(p.writes) != 0 || c.lanes["p"].own != 3 {
			t.Errorf("%d writes before the last, %d RPCs to go", len(p.writes), c.lanes["p"].own)
		}
		write(small)
		sent(small, control, small, small)
		if c.lanes["p"].own != 0 {
			t.Errorf("%d RPCs are counted still", c.lanes["p"].own)
		}
		queued(1) // and is dropped
		write(control)
		synctest.Wait()
		time.Sleep(heldAtMost)
		synctest.Wait()
		sent(control)
		queued(1)
		write(small)
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		sent(small)
		queued(2)
		write(small, large) // is too large to wait
		if len(p.writes) != 2 || len(p.writes[0]) != len(small) || len(p.writes[1]) != len(large) {
			t.Errorf("%d writes of a small and a large RPC", len(p.writes))
		}
		p.writes = nil
		most := sentTogether / len(small)
		queued(2 * most)
		for range most + 1 {
			write(small)
		}
		if len(p.writes) != 1 || len(p.writes[0]) != most*len(small) {
			t.Errorf("%d writes when it is full", len(p.writes))
		}
		o.mu.Lock()
		p.fails = errors.New("gone")
		o.mu.Unlock()
		time.Sleep(heldAtMost)
		synctest.Wait()
		if _, err := o.Write(small); !errors.Is(err, p.fails) {
			t.Errorf("after a late write that failed: %v", err)
		}
	})
}

// What is read ahead comes in order and whole, whatever the pieces, in fewer
// reads, and keeps no buffer while nothing comes. Messages that come together are
// one RPC, as far as the peer may bring them, and control stays apart.
func TestReadsAhead(t *testing.T) {
	const n = 64
	var all []byte
	for i := range n {
		if all = append(all, framed(t, 1+i*i*5)...); i%10 == 9 {
			all = append(all, framed(t, 0)...)
		}
	}
	for _, step := range []int{1, 7, 300, 4096, len(all)} {
		for _, window := range []int{leastAhead, mostAhead} {
			p := &pipe{}
			for i := 0; i < len(all); i += step {
				p.pieces = append(p.pieces, all[i:min(i+step, len(all))])
			}
			pace := newPace(0)
			pace.open("p", time.Now())
			pace.flows["p"].window = window
			in := &inbound{Stream: p, peer: peer.ID("p"), pace: pace, over: make(chan struct{})}
			sizes, controls, largest := []int{}, 0, 0
			for len(sizes) < n || controls < n/10 { // as pubsub reads: a byte of the length at a time, and all of the rest
				length, err := binary.ReadUvarint(oneByOne{in})
				if err != nil {
					t.Fatal(err)
				}
				b, rpc := make([]byte, length), new(pb.RPC)
				if _, err := io.ReadFull(in, b); err != nil {
					t.Fatal(err)
				}
				if err := proto.Unmarshal(b, rpc); err != nil {
					t.Fatalf("pieces of %d: what is not an RPC: %v", step, err)
				}
				for _, m := range rpc.GetPublish() {
					sizes = append(sizes, len(m.GetData()))
				}
				if controls += len(rpc.GetSubscriptions()); len(rpc.GetSubscriptions()) > 0 && (len(rpc.GetPublish()) > 0 || len(sizes) != 10*controls) {
					t.Errorf("pieces of %d: control with %d messages, behind %d", step, len(rpc.GetPublish()), len(sizes))
				}
				largest = max(largest, len(rpc.GetPublish()))
				pace.came("p", len(rpc.GetPublish()), time.Now())
				if pace.settled("p", len(rpc.GetPublish())); pace.flows["p"].ahead() != 0 || pace.flows["p"].known != 0 {
					t.Fatalf("pieces of %d: %d are counted still, and %d known", step, pace.flows["p"].ahead(), pace.flows["p"].known)
				}
			}
			for i, size := range sizes {
				if size != 1+i*i*5 {
					t.Fatalf("pieces of %d: message %d has %d bytes", step, i, size)
				}
			}
			if in.buffer != nil {
				t.Errorf("pieces of %d: a buffer is kept", step)
			}
			if _, err := in.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || !in.failed {
				t.Errorf("pieces of %d: at the end %v", step, err)
			}
			if want := min(10, window); step == len(all) && (largest != want || p.reads > 2*n) {
				t.Errorf("%d messages in the largest RPC, want %d; %d reads for %d RPCs", largest, want, p.reads, n)
			}
		}
	}
}

type oneByOne struct{ io.Reader }

func (r oneByOne) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// Of RPCs that are joined none is more than a peer may bring, and bytes that are
// no RPC are left as they came.
func FuzzAsOne(f *testing.F) {
	f.Add(append(framed(f, 3), framed(f, 200)...), 2)
	f.Add(append(framed(f, 1), framed(f, 0)...), 9)
	f.Add(bytes.Repeat(framed(f, 1), 2*mostAsOne), maxMessages)
	f.Add([]byte{3, publishTag, 0xff, 0xff, 2, publishTag, 0}, 3)
	f.Fuzz(func(t *testing.T, b []byte, room int) {
		was := rpcs(bytes.Clone(b))
		rest, n := asOne(bytes.Clone(b), func() int { return room })
		is := rpcs(rest)
		joined := len(was) - len(is) + 1
		if n < 1 || joined > 1 && n > room {
			t.Fatalf("%d messages where there is room for %d", n, room)
		}
		if joined == 1 {
			if !bytes.Equal(rest, b) {
				t.Fatalf("%x became %x", b, rest)
			}
			return
		}
		if !bytes.Equal(is[0], bytes.Join(was[:joined], nil)) || messagesOf(is[0]) != n {
			t.Fatalf("%d RPCs of %x became %x, told as %d messages", joined, b, is[0], n)
		}
		for i, body := range is[1:] {
			if !bytes.Equal(body, was[joined+i]) {
				t.Fatalf("RPC %d behind them changed", i)
			}
		}
	})
}

// rpcs are the RPCs of b, and last what is none.
func rpcs(b []byte) (list [][]byte) {
	for {
		length, head := binary.Uvarint(b)
		if head <= 0 || length > uint64(len(b)-head) {
			return append(list, b)
		}
		list, b = append(list, b[head:][:length]), b[head:][length:]
	}
}
