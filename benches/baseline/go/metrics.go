package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are looked up by their labels whenever something is counted.
type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	samples    *prometheus.CounterVec
	anomalies  *prometheus.CounterVec
	rollingAvg *prometheus.GaugeVec
	zScore     *prometheus.GaugeVec
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"metric"})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("http_requests_total", "Requests.", "method", "path", "code"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time to the answer.",
		}, []string{"path"}),
		samples:    counter("ingest_samples_total", "Samples.", "result"),
		anomalies:  counter("anomalies_total", "Anomalies.", "metric"),
		rollingAvg: gauge("rolling_avg", "Mean of the fleet's window."),
		zScore:     gauge("zscore", "Score of the fleet's last value."),
	}
	m.registry.MustRegister(m.requests, m.durations, m.samples, m.anomalies, m.rollingAvg, m.zScore)
	return m
}

func (m *metrics) answered(method, path, code string, elapsed time.Duration) {
	m.requests.WithLabelValues(method, path, code).Inc()
	m.durations.WithLabelValues(path).Observe(elapsed.Seconds())
}

func (m *metrics) accepted(samples int) {
	m.samples.WithLabelValues("accepted").Add(float64(samples))
}

func (m *metrics) judged(all []judged) {
	for _, one := range all {
		m.rollingAvg.WithLabelValues(one.metric).Set(one.mean)
		m.zScore.WithLabelValues(one.metric).Set(one.zScore)
		if one.isAnomaly {
			m.anomalies.WithLabelValues(one.metric).Inc()
		}
	}
}
