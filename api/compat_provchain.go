package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
)

// provchainError is the body of an error on ProvChain's routes.
type provchainError struct {
	Error     string `json:"error"`
	Message   string `json:"message"`
	Timestamp string `json:"timestamp"`
}

const (
	recentRecords = 50
	recentBlocks  = 100  // looked at for them
	dumpPage      = 50   // blocks
	dumpRecords   = 1000 // of a block, read at a time
)

func (s *Server) provchainRoutes() {
	s.get("/health", open, s.provchainHealth)
	s.get("/api/peers", read, s.provchainPeers)
	s.get("/api/blockchain/status", read, s.provchainStatus)
	s.getLarge("/api/blockchain/dump", s.dumps, s.provchainDump)
	s.getLarge("/api/blockchain/blocks", s.lists, s.provchainBlocks)
	s.get("/api/blockchain/blocks/{index}", read, s.provchainBlock)
	s.get("/api/blockchain/validate", read, s.provchainValidate)
	s.getLarge("/api/transactions/recent", s.lists, s.provchainRecent)
}

func (s *Server) provchainHealth(w http.ResponseWriter, r *http.Request) {
	if err := s.node.Live(); err != nil {
		s.refuse(w, r, notReady.problem(err.Error()))
		return
	}
	if r.URL.Query().Get("format") != "json" && !strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("OK"))
		return
	}
	environment := "production"
	if s.cfg.Profile == config.ProfileDevnet {
		environment = "development"
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"status": "healthy", "timestamp": stamp(time.Now()), "version": strings.TrimPrefix(s.node.Version().Version, "v"),
		"security": map[string]any{
			"jwt_secret_configured": len(s.live.Load().secrets) > 0, "rate_limiting_enabled": s.live.Load().cfg.API.Rate > 0,
			"security_headers_enabled": true, "environment": environment,
		},
	})
}

type provchainPeer struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Status   string `json:"status"`
	LastSeen string `json:"last_seen"`
}

func (s *Server) provchainPeers(w http.ResponseWriter, _ *http.Request) {
	peers := []provchainPeer{}
	for _, p := range s.node.Peers() {
		if p.Ready {
			peers = append(peers, provchainPeer{p.ID.String(), p.Address, "connected", p.LastSeen.UTC().Format(time.RFC3339)})
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"peers": peers, "peer_count": len(peers)})
}

func (s *Server) provchainStatus(w http.ResponseWriter, r *http.Request) {
	c, err := s.node.Chain()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	genesis, err := s.node.Block("0")
	if err != nil && !errors.Is(err, parley.ErrOtherNetwork) { // else no block is kept here
		s.refuse(w, r, s.problemOf(err))
		return
	}
	st := s.node.Status()
	interval, rate := 0.0, 0.0 // of blocks in s, of records in 1/s, over the chain's life
	if life := c.Head.Time.Sub(genesis.Time).Seconds(); c.Height > 0 && life > 0 && err == nil {
		interval, rate = life/float64(c.Height), float64(c.RecordCount)/life
	}
	peers := st.Peers.Inbound + st.Peers.Outbound
	valid := s.node.Live() == nil
	writeJSON(w, http.StatusOK, map[string]any{
		"block_count": c.BlockCount, "transaction_count": c.RecordCount, "latest_block_hash": c.Head.Hash, "is_valid": valid,
		"total_blocks": c.BlockCount, "total_transactions": c.RecordCount, "total_items": c.RecordCount,
		"active_participants": c.Validators.Connected, "network_status": st.Verdict, "last_block_time": stamp(c.Head.Time),
		"avg_block_time": interval, "transactions_per_second": rate, "network_hash_rate": 0, "uptime": st.UptimeS,
		"peer_count": peers, "sync_status": c.Sync.State, "last_block_age": c.Head.AgeS, "validation_errors": []string{},
		"height": c.Height, "network_peers": peers, "last_updated": stamp(time.Now()),
	})
}

// provchainFull is a block as the dump shows it.
type provchainFull struct {
	Index            uint64     `json:"index"`
	Timestamp        string     `json:"timestamp"`
	Data             string     `json:"data"` // the records as JSON, one a line
	PreviousHash     chain.Hash `json:"previous_hash"`
	Hash             chain.Hash `json:"hash"`
	StateRoot        string     `json:"state_root"`
	Validator        string     `json:"validator"`
	Signature        string     `json:"signature"` // the certificate
	TransactionCount int        `json:"transaction_count"`
}

// provchainRecord is a record in a dump.
type provchainRecord struct {
	ID         chain.Hash      `json:"id"`
	Subject    string          `json:"subject"`
	MediaType  string          `json:"media_type"`
	Body       json.RawMessage `json:"body,omitempty"`
	BodyBase64 []byte          `json:"body_base64,omitempty"`
	Author     string          `json:"author"`
}

func (s *Server) provchainFullOf(b parley.Block) (provchainFull, error) {
	data, err := s.provchainData(b)
	if err != nil {
		return provchainFull{}, err
	}
	f := provchainFull{
		Index: b.Height, Timestamp: stamp(b.Time), Data: data, PreviousHash: b.PrevHash, Hash: b.Hash,
		Signature: b.Raw.Certificate, TransactionCount: b.RecordCount,
	}
	if b.Proposer != nil {
		f.Validator = b.Proposer.Name
	}
	return f, nil
}

func (s *Server) provchainData(b parley.Block) (string, error) {
	var data strings.Builder
	for page := (parley.Range{Limit: dumpRecords}); b.RecordCount > 0; {
		records, next, err := s.node.BlockRecordsPage(strconv.FormatUint(b.Height, 10), page)
		if err != nil {
			return "", err
		}
		for _, r := range records {
			line, err := json.Marshal(provchainRecord{r.ID, r.Subject, r.MediaType, r.Body, r.BodyBase64, r.Author})
			if err != nil {
				return "", err
			}
			if data.Len() > 0 {
				data.WriteByte('\n')
			}
			data.Write(line)
		}
		if next == "" {
			break
		}
		page.After = next
	}
	return data.String(), nil
}

// provchainDump streams blocks as one array.
func (s *Server) provchainDump(w http.ResponseWriter, r *http.Request) {
	c, err := s.node.Chain()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	from, err1 := numberOr(r.URL.Query().Get("from"), 0)
	limit, err2 := numberOr(r.URL.Query().Get("limit"), c.BlockCount)
	if errors.Join(err1, err2) != nil {
		s.refuse(w, r, badRequest.problem("from and limit: want numbers"))
		return
	}
	if s.cfg.Network != config.NetworkConsortium {
		c.BlockCount = 0 // none is kept here
	}
	w.Header().Set("X-Total-Count", strconv.FormatUint(c.BlockCount, 10))
	w.Header().Set("Content-Type", "application/json")
	if from >= c.BlockCount {
		limit = 0
	} else {
		limit = min(limit, c.BlockCount-from)
	}
	if err := s.dump(w, from, limit); err != nil {
		s.log.Debug("dump broken off", "err", err)
		panic(http.ErrAbortHandler) // a whole array would be a lie
	}
}

func (s *Server) dump(w io.Writer, from, count uint64) error {
	if _, err := io.WriteString(w, "["); err != nil {
		return err
	}
	for sep := ""; count > 0; {
		blocks, _, err := s.node.Blocks(parley.Range{Limit: int(min(count, dumpPage)), After: strconv.FormatUint(from, 10)})
		if err != nil {
			return err
		}
		for _, b := range blocks {
			full, err := s.provchainFullOf(b)
			if err != nil {
				return err
			}
			line, err := json.Marshal(full)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(w, sep); err != nil {
				return err
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
			sep = ",\n"
		}
		from += uint64(len(blocks))
		count -= uint64(len(blocks))
	}
	_, err := io.WriteString(w, "]\n")
	return err
}

func numberOr(text string, otherwise uint64) (uint64, error) {
	if text == "" {
		return otherwise, nil
	}
	return strconv.ParseUint(text, 10, 53)
}

type provchainBrief struct {
	Index            uint64     `json:"index"`
	Hash             chain.Hash `json:"hash"`
	PreviousHash     chain.Hash `json:"previous_hash"`
	Timestamp        string     `json:"timestamp"`
	TransactionCount int        `json:"transaction_count"`
	Size             int        `json:"size"`
}

func provchainBriefOf(b parley.Block) provchainBrief {
	return provchainBrief{b.Height, b.Hash, b.PrevHash, stamp(b.Time), b.RecordCount, b.SizeBytes}
}

// provchainBlocks lists ?limit blocks (at most 1000) from ?from on, oldest first.
func (s *Server) provchainBlocks(w http.ResponseWriter, r *http.Request) {
	c, err := s.node.Chain()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	from, err1 := numberOr(r.URL.Query().Get("from"), 0)
	limit, err2 := numberOr(r.URL.Query().Get("limit"), 1000)
	if errors.Join(err1, err2) != nil {
		s.refuse(w, r, badRequest.problem("from and limit: want numbers"))
		return
	}
	list := []provchainBrief{}
	if from < c.BlockCount && limit > 0 {
		blocks, _, err := s.node.Blocks(parley.Range{Limit: int(min(limit, 1000)), After: strconv.FormatUint(from, 10)})
		if err != nil {
			s.refuse(w, r, s.problemOf(err))
			return
		}
		for _, b := range blocks {
			list = append(list, provchainBriefOf(b))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"blocks": list, "total_blocks": c.BlockCount})
}

func (s *Server) provchainBlock(w http.ResponseWriter, r *http.Request) {
	index := r.PathValue("index")
	_, err := strconv.ParseUint(index, 10, 53)
	var b parley.Block
	if err == nil {
		b, err = s.node.Block(index)
	} else {
		err = parley.ErrNotFound
	}
	if errors.Is(err, parley.ErrNotFound) {
		writeJSON(w, http.StatusNotFound, provchainError{"block_not_found", "no block has this index", stamp(time.Now())})
		return
	}
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, provchainBriefOf(b))
}

func (s *Server) provchainValidate(w http.ResponseWriter, r *http.Request) {
	c, err := s.node.Chain()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"is_valid": s.node.Live() == nil, "total_blocks": c.BlockCount, "validation_timestamp": stamp(time.Now()),
	})
}

func (s *Server) provchainRecent(w http.ResponseWriter, r *http.Request) {
	c, err := s.node.Chain()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	recent, err := s.recent()
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"transactions": recent, "total_transactions": c.RecordCount})
}

// recent lists the newest records first. It reads no more of them than it
// shows.
func (s *Server) recent() ([]parley.Record, error) {
	blocks, _, err := s.node.Blocks(parley.Range{Desc: true, Limit: recentBlocks})
	if err != nil {
		return nil, err
	}
	recent := []parley.Record{}
	for _, b := range blocks {
		want := min(recentRecords-len(recent), b.RecordCount)
		if want == 0 {
			continue
		}
		last := parley.Range{Limit: want, After: strconv.Itoa(b.RecordCount - want)}
		records, _, err := s.node.BlockRecordsPage(strconv.FormatUint(b.Height, 10), last)
		if err != nil {
			return nil, err
		}
		slices.Reverse(records)
		recent = append(recent, records...)
	}
	return recent, nil
}
