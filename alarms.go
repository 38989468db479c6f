package parley

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/event"
)

var alarmActive = prometheus.NewDesc("parley_alarm_active", "Alarms that stand.", []string{"code"}, nil)

// alarmMetric shows each alarm that there can be.
type alarmMetric struct{ alarms *event.Alarms }

// Describe implements [prometheus.Collector].
func (alarmMetric) Describe(out chan<- *prometheus.Desc) { out <- alarmActive }

// Collect implements [prometheus.Collector].
func (m alarmMetric) Collect(out chan<- prometheus.Metric) {
	for _, code := range event.AlarmCodes {
		active := 0.0
		if m.alarms.On(code) {
			active = 1
		}
		out <- prometheus.MustNewConstMetric(alarmActive, prometheus.GaugeValue, active, code)
	}
}
