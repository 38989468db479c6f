package ledger

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	blocks  *prometheus.CounterVec
	records prometheus.Counter
	commit  prometheus.Histogram

	damaged, repaired prometheus.Counter
}

func newMetrics(l *Ledger, reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("parley_ledger_height", "Height of the last block.", func() float64 { return float64(l.Tip().Head.Height) })
	gauge("parley_ledger_head_age_seconds", "Time since the proposer's time of the last block; 0 without one.", func() float64 {
		h := l.Tip().Header
		if h == nil {
			return 0
		}
		return time.Since(time.UnixMilli(int64(h.Time))).Seconds()
	})
	gauge("parley_ledger_journal_records", "Records that were answered as accepted and have no end yet.", func() float64 { return float64(l.JournalLen()) })
	gauge("parley_ledger_size_bytes", "Bytes on disk.", func() float64 { return float64(l.DiskUsage()) })
	m := &metrics{
		blocks:   f.NewCounterVec(prometheus.CounterOpts{Name: "parley_ledger_blocks_total", Help: "Blocks stored, by where they came from."}, []string{"source"}),
		records:  f.NewCounter(prometheus.CounterOpts{Name: "parley_ledger_records_total", Help: "Records stored."}),
		damaged:  f.NewCounter(prometheus.CounterOpts{Name: "parley_ledger_damaged_total", Help: "Reads of a block that met damaged bytes."}),
		repaired: f.NewCounter(prometheus.CounterOpts{Name: "parley_ledger_repaired_total", Help: "Damaged blocks written once more."}),
		commit: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_ledger_commit_seconds", Help: "Time of an append: checks, write and sync.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
	for _, source := range []string{"gossip", "sync", "own"} {
		m.blocks.WithLabelValues(source)
	}
	return m
}
