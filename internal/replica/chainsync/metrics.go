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

type metrics struct {
	blocks *prometheus.CounterVec
	bytes  prometheus.Counter
	served prometheus.Counter
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
	for _, r := range []string{resultStored, resultInvalid, resultWasted} {
		m.blocks.WithLabelValues(r)
	}
	return m
}
