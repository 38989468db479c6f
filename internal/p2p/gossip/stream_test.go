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
// reads, and keeps no buffer while nothing comes.
func TestReadsAhead(t *testing.T) {
	var all []byte
	const n = 64
	for i := range n {
		all = append(all, framed(t, 1+i*i*5)...)
	}
	for _, step := range []int{1, 7, 300, 4096, len(all)} {
		p := &pipe{}
		for i := 0; i < len(all); i += step {
			p.pieces = append(p.pieces, all[i:min(i+step, len(all))])
		}
		pace := newPace(0)
		pace.open("p", time.Now())
		in := &inbound{Stream: p, peer: peer.ID("p"), pace: pace, over: make(chan struct{})}
		for i := range n { // as pubsub reads: a byte of the length at a time, and all of the rest
			want := framed(t, 1+i*i*5)
			_, head := binary.Uvarint(want)
			b := make([]byte, len(want))
			for at := range head {
				if _, err := io.ReadFull(in, b[at:at+1]); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.ReadFull(in, b[head:]); err != nil || !bytes.Equal(b, want) {
				t.Fatalf("pieces of %d, RPC %d is not what was sent: %v", step, i, err)
			}
		}
		if in.buffer != nil {
			t.Errorf("pieces of %d: a buffer is kept", step)
		}
		if _, err := in.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || !in.failed {
			t.Errorf("pieces of %d: at the end %v", step, err)
		}
		if step == len(all) && p.reads > 2*n {
			t.Errorf("%d reads for %d RPCs", p.reads, n)
		}
	}
}
