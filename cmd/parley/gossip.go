package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
)

const maxMessage = 1 << 20 // bytes of one that is published

func gossipCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "gossip", Short: "The topics that everybody hears, and the ways of their messages",
		Example: "parley gossip topics\nparley gossip mesh block\nparley gossip tail\nparley gossip trace 3f2a9c01b7d4e8f60512a3b4c5d6e7f801234567\nparley gossip publish tx tx.bin",
	}
	c.AddCommand(
		&cobra.Command{Use: "topics", Short: "How each topic does", Args: cobra.NoArgs, Example: "parley gossip topics -o wide",
			RunE: func(c *cobra.Command, _ []string) error {
				return ask(c.Context(), g, query("gossip/topics", "limit", "1000"), viewTopics)
			}},
		&cobra.Command{Use: "mesh [TOPIC]", Short: "The peers with whom whole messages are exchanged", Args: cobra.MaximumNArgs(1), Example: "parley gossip mesh block",
			RunE: func(c *cobra.Command, args []string) error {
				return ask(c.Context(), g, query("gossip/mesh", "limit", "1000", "topic", strings.Join(args, "")), viewMesh)
			}},
		&cobra.Command{Use: "scores", Short: "How gossip rates each peer, the worst first", Args: cobra.NoArgs, Example: "parley gossip scores",
			RunE: func(c *cobra.Command, _ []string) error {
				return ask(c.Context(), g, query("peers", "limit", "1000"), viewScores)
			}},
		tailCommand(g), publishCommand(g),
		&cobra.Command{Use: "trace MSGID", Short: "The way of one of the newest messages through this node", Args: cobra.ExactArgs(1),
			Long:    "Who brought it first, who again, what was said of it, and to whom it was sent. MSGID is the\nwhole id, 40 hex digits, as parley gossip tail shows it. A node remembers its newest 2048 messages.",
			Example: "parley gossip trace 3f2a9c01b7d4e8f60512a3b4c5d6e7f801234567",
			RunE: func(c *cobra.Command, args []string) error {
				return ask(c.Context(), g, "gossip/traces/"+url.PathEscape(args[0]), viewTrace)
			}},
	)
	return c
}

func viewTopics(l list[parley.GossipTopic]) *table {
	t := &table{columns: []column{
		{name: "TOPIC"}, {name: "PEERS", right: true}, {name: "MESH", right: true}, {name: "MESSAGES", right: true}, {name: "PER S", right: true},
		{name: "DUPLICATES", right: true}, {name: "REJECTED", right: true}, {name: "IGNORED", right: true}, {name: "NAME", wide: true},
	}, empty: "no topic is served yet: the chain is not known"}
	sum := func(m map[string]uint64) string {
		n := uint64(0)
		for _, v := range m {
			n += v
		}
		return strconv.FormatUint(n, 10)
	}
	for _, v := range l.Items {
		t.add(v.Topic, strconv.Itoa(v.Peers), strconv.Itoa(v.Mesh), strconv.FormatUint(v.Messages, 10), strconv.FormatFloat(v.MessagesS, 'f', 1, 64),
			strconv.FormatUint(v.Duplicates, 10), sum(v.Rejected), sum(v.Ignored), v.Name)
	}
	return t
}

func viewMesh(l list[parley.MeshPeer]) *table {
	t := &table{columns: []column{{name: "TOPIC"}, {name: "PEER"}, {name: "NAME"}, {name: "SCORE", right: true}}, empty: "no mesh has a peer"}
	for _, v := range l.Items {
		t.add(v.Topic, short(v.Peer.String()), v.Name, strconv.FormatFloat(v.Score, 'f', 1, 64))
	}
	return t
}

func viewScores(l list[parley.Peer]) *table {
	t := &table{columns: []column{{name: "PEER"}, {name: "NAME"}, {name: "SCORE", right: true}, {name: "MESH"}}, empty: "no peers are connected"}
	slices.SortFunc(l.Items, func(a, b parley.Peer) int { // no two are equal, so the order is one
		switch {
		case a.GossipScore < b.GossipScore:
			return -1
		case a.GossipScore > b.GossipScore:
			return 1
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	for _, v := range l.Items {
		t.add(short(v.ID.String()), v.Name, strconv.FormatFloat(v.GossipScore, 'f', 1, 64), strings.Join(v.Mesh, " "))
	}
	return t
}

func viewTrace(v parley.GossipTrace) *table {
	from := "a peer"
	if v.Own {
		from = "this node"
	}
	t := facts("message", v.ID, "topic", v.Topic, "size", size(v.SizeBytes), "from", from, "came", v.At.Local().Format(time.TimeOnly+".000"),
		"verdict", verdictText(v.Verdict, v.Reason, v.VerdictMS))
	words := map[string]string{"first": "brought it", "duplicate": "brought it too", "sent": "was sent it"}
	for _, h := range v.Hops {
		name := short(h.Peer.String())
		if h.Name != "" {
			name = h.Name + " (" + name + ")"
		}
		t.add(fmt.Sprintf("+%.1f ms", h.AfterMS), name+" "+words[h.What])
	}
	if v.More > 0 {
		t.add("", count(v.More, "hop")+" more")
	}
	return t
}

func verdictText(verdict, reason string, ms float64) string {
	text := map[string]string{"accept": "accepted", "ignore": "ignored", "reject": "rejected", "dropped": "dropped before it was looked at", "pending": "not judged yet"}[verdict]
	if verdict == "accept" || verdict == "ignore" || verdict == "reject" {
		text += fmt.Sprintf(" after %.1f ms", ms)
	}
	if reason != "" {
		text += ": " + strings.Map(printable, reason)
	}
	return text
}

func publishCommand(g *globals) *cobra.Command {
	var sure bool
	c := &cobra.Command{Use: "publish TOPIC FILE", Short: "Send a file's bytes to all that take a topic; on sidecar networks", Args: cobra.ExactArgs(2),
		Long: "FILE may be -, which is stdin. The node does not look at what it sends: its peers judge it, and those that reject it\ncharge this node points; so it asks first. The message's id is shown.", Example: "parley gossip publish tx tx.bin\nparley gossip publish tx tx.bin --yes",
		RunE: func(c *cobra.Command, args []string) error {
			data, err := g.readMost(args[1], maxMessage, "cut it into several")
			if err != nil {
				return err
			}
			node, err := g.client()
			if err != nil {
				return err
			}
			question := fmt.Sprintf("this sends %s to all that take %s, and nobody has looked at them: who rejects them charges this node points", count(len(data), "byte"), args[0])
			if err := g.confirmed(sure, "--yes", question); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), g.timeout)
			defer cancel()
			body, err := node.do(ctx, http.MethodPost, "gossip/topics/"+url.PathEscape(args[0])+"/messages", "application/octet-stream", data)
			if err != nil {
				return err
			}
			return g.show(body, func() (*table, error) {
				v, err := decode[struct {
					ID string `json:"message_id"`
				}](body)
				return facts("message", v.ID), err
			})
		}}
	c.Flags().BoolVar(&sure, "yes", false, "without asking")
	return c
}

func tailCommand(g *globals) *cobra.Command {
	var data bool
	c := &cobra.Command{Use: "tail [TOPIC…]", Short: "Messages as they are judged, our own included", Args: cobra.ArbitraryArgs,
		Long:    "One line a message; its id is what trace takes. With --data their bytes are shown too, by -o json in base64; that needs the scope admin.",
		Example: "parley gossip tail\nparley gossip tail tx --data --json\nparley gossip tail block --limit 1"}
	c.Flags().BoolVar(&data, "data", false, "with the bytes of accepted messages")
	c.RunE = func(c *cobra.Command, args []string) error { return g.tail(c.Context(), args, data) }
	return c
}

// tail shows messages until the node or the user ends it, or --limit of them.
func (g *globals) tail(ctx context.Context, topics []string, data bool) error {
	node, err := g.client()
	if err != nil {
		return err
	}
	calls := parleyv1connect.NewGossipServiceClient(node.http, node.base)
	r := connect.NewRequest(&pb.TailRequest{Topics: topics, Data: data})
	if node.token != "" {
		r.Header().Set("Authorization", "Bearer "+node.token)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := calls.Tail(ctx, r)
	if err != nil {
		return node.callFault(ctx, err)
	}
	defer stream.Close()
	g.say("following; Ctrl-C ends")
	for n := 0; (g.limit == 0 || n < g.limit) && stream.Receive(); {
		m := stream.Msg()
		if m.GetLost() > 0 {
			g.say("%s left out: they came too fast", count(m.GetLost(), "message"))
		}
		if m.GetMessageId() == "" {
			continue
		}
		n++
		if err := g.showMessage(m); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return node.callFault(ctx, err)
	}
	return nil
}

func (g *globals) showMessage(m *pb.TailMessage) error {
	if g.output == "table" || g.output == "wide" {
		from := short(m.GetFrom())
		if m.GetOwn() {
			from = "this node"
		}
		line := fmt.Sprintf("%s  %s  %-12s %-10s %s, %s", m.GetAt().AsTime().Local().Format(time.TimeOnly), m.GetMessageId(), m.GetTopic(), from,
			size(m.GetSizeBytes()), verdictText(m.GetVerdict(), m.GetReason(), m.GetVerdictMs()))
		if len(m.GetData()) > 0 {
			line += fmt.Sprintf("\n  %.200q", m.GetData())
		}
		_, err := fmt.Fprintln(g.out, line)
		return err
	}
	from, err := peer.Decode(m.GetFrom())
	if err != nil {
		return fmt.Errorf("message %s: from %q: %w", m.GetMessageId(), m.GetFrom(), err)
	}
	return g.showValue(parley.TailedMessage{
		GossipMessage: parley.GossipMessage{
			ID: m.GetMessageId(), Topic: m.GetTopic(), SizeBytes: int(m.GetSizeBytes()), Own: m.GetOwn(), At: m.GetAt().AsTime(),
			Verdict: m.GetVerdict(), Reason: m.GetReason(), VerdictMS: m.GetVerdictMs(),
		},
		From: from, Lost: m.GetLost(), Data: m.GetData(),
	}, func() *table {
		return facts("message", m.GetMessageId(), "topic", m.GetTopic(), "verdict", m.GetVerdict())
	})
}

// callFault tells what a remote call failed with as what a route does.
func (c *client) callFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errFollowed
	}
	refused, ok := errors.AsType[*connect.Error](err)
	if !ok || !connect.IsWireError(err) {
		return c.unreachable(ctx, err)
	}
	e := &apiError{Detail: refused.Message(), Status: map[connect.Code]int{
		connect.CodeUnauthenticated: http.StatusUnauthorized, connect.CodePermissionDenied: http.StatusForbidden, connect.CodeNotFound: http.StatusNotFound,
		connect.CodeResourceExhausted: http.StatusTooManyRequests, connect.CodeUnavailable: http.StatusServiceUnavailable, connect.CodeUnimplemented: http.StatusNotImplemented,
	}[refused.Code()]}
	for _, d := range refused.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*errdetails.ErrorInfo); ok {
				e.Code = info.GetReason()
			}
		}
	}
	return e
}
