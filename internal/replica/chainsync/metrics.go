package chainsync

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Results of a fetched block.
const (
	resultStored  = "stored"
	resultInvalid = "invalid" // does not fit its header
	resultWasted  = "wasted"  // came twice
)

// How the body of an announced block came.
const (
	howRebuilt = "rebuilt" // out of records that were here
	howPart    = "part"    // some of its records were fetched
	howWhole   = "whole"   // given up, and fetched whole
)

type metrics struct {
	completed *prometheus.CounterVec
	early     prometheus.Counter
	blocks    *prometheus.CounterVec
	bytes     prometheus.Counter
	served    prometheus.Counter
}

func newMetrics(y *Syncer, reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	for _, state := range []string{Waiting, Syncing, Synced} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_chainsync_state", Help: "1 for the state that holds.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 {
			if y.State().State == state {
				return 1
			}
			return 0
		})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_chainsync_lag_blocks", Help: "Blocks that certificates prove and we lack."},
		func() float64 { return float64(y.State().LagBlocks) })
	m := &metrics{
		blocks: f.NewCounterVec(prometheus.CounterOpts{Name: "parley_chainsync_blocks_total", Help: "Bodies fetched, by what became of them."}, []string{"result"}),
		bytes:  f.NewCounter(prometheus.CounterOpts{Name: "parley_chainsync_bytes_total", Help: "Bytes of answers read."}),
		served: f.NewCounter(prometheus.CounterOpts{Name: "parley_chainsync_served_bytes_total", Help: "Bytes of answers written."}),
	}
	m.completed = f.NewCounterVec(prometheus.CounterOpts{Name: "parley_chainsync_completed_total", Help: "Announced blocks, by how their body came."}, []string{"how"})
	m.early = f.NewCounter(prometheus.CounterOpts{Name: "parley_chainsync_early_records_total", Help: "Records fetched ahead of their block."})
	for _, how := range []string{howRebuilt, howPart, howWhole} {
		m.completed.WithLabelValues(how)
	}
	for _, r := range []string{resultStored, resultInvalid, resultWasted} {
		m.blocks.WithLabelValues(r)
	}
	return m
}
