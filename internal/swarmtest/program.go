package swarmtest

import (
	"context"
	"slices"
	"sync"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// Sidecar makes a node one of a sidecar network.
func Sidecar(name string) func(*config.Config) {
	return func(c *config.Config) { c.Network, c.NetworkName = config.NetworkSidecar, name }
}

// Program plays the program of a node of a sidecar network: it judges messages
// and answers requests by functions, and keeps what it is told.
type Program struct {
	*parley.Program
	Judge  func(parley.ProgramValidate) (v parley.ProgramVerdict, reason string, say bool) // nil accepts all
	Answer func(parley.ProgramIncoming) [][]byte                                           // nil says nothing

	done chan struct{}

	mu   sync.Mutex // guards below
	told []parley.ToProgram
	end  error // why it was ended
}

// Attach attaches p to n until the test ends, or somebody ends it.
func (n *Node) Attach(h parley.ProgramHello, p *Program) *Program {
	t := n.swarm.T
	t.Helper()
	h.API = parley.ProgramAPI
	session, err := n.Node.Attach(t.Context(), h)
	if err != nil {
		t.Fatalf("%s: attach: %v", n.Name, err)
	}
	p.Program, p.done = session, make(chan struct{})
	go p.run(t.Context(), func(err error) { t.Errorf("%s: %v", n.Name, err) })
	return p
}

// run reads what the program is told, until it is ended.
func (p *Program) run(ctx context.Context, fault func(error)) {
	defer close(p.done)
	for {
		item, err := p.Next(ctx)
		p.mu.Lock()
		if p.end = err; err == nil {
			p.told = append(p.told, item)
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		switch item := item.(type) {
		case parley.ProgramValidate:
			err = p.judge(item)
		case parley.ProgramIncoming:
			err = p.answer(item)
		}
		if err != nil {
			fault(err)
		}
	}
}

func (p *Program) judge(v parley.ProgramValidate) error {
	if p.Judge == nil {
		return p.Verdict(v.ID, parley.VerdictAccept, "")
	}
	verdict, reason, say := p.Judge(v)
	if !say {
		return nil
	}
	return p.Verdict(v.ID, verdict, reason)
}

func (p *Program) answer(in parley.ProgramIncoming) error {
	if p.Answer == nil {
		return nil
	}
	parts := p.Answer(in)
	for i, part := range parts {
		if err := p.Reply(in.ID, part, i == len(parts)-1, ""); err != nil {
			return err
		}
	}
	return nil
}

// Leave detaches the program.
func (p *Program) Leave() {
	p.Close()
	<-p.done
}

// Ended is why the program was ended, nil while it is attached.
func (p *Program) Ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// toldOf lists what the program was told of one kind.
func toldOf[T parley.ToProgram](p *Program) (list []T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, item := range p.told {
		if v, ok := item.(T); ok {
			list = append(list, v)
		}
	}
	return list
}

// Asked tells whether the program was asked for a verdict on data.
func (p *Program) Asked(data string) bool {
	return slices.ContainsFunc(toldOf[parley.ProgramValidate](p), func(v parley.ProgramValidate) bool { return string(v.Data) == data })
}
