package main

import (
	"math"
	"sync"
)

const (
	windowSize = 50
	threshold  = 2.0
	minSamples = 10
	// zMax stands for an infinite score.
	zMax = 1e6
)

// stream is one metric of one device, or of the fleet.
type stream struct {
	values    []float64
	total     int
	anomalies int
	zScore    float64
	isAnomaly bool
}

// moments are the mean and the population standard deviation.
func (s *stream) moments() (mean, stdDev float64) {
	if len(s.values) == 0 {
		return 0, 0
	}
	for _, value := range s.values {
		mean += value
	}
	mean /= float64(len(s.values))
	var squares float64
	for _, value := range s.values {
		squares += (value - mean) * (value - mean)
	}
	return mean, math.Sqrt(squares / float64(len(s.values)))
}

// observe judges a value by the window, then lets it in.
func (s *stream) observe(value float64) {
	mean, stdDev := s.moments()
	enough := len(s.values) >= minSamples
	switch {
	case stdDev > 0:
		s.zScore = (value - mean) / stdDev
		s.isAnomaly = enough && math.Abs(s.zScore) > threshold
	case len(s.values) == 0 || value == mean:
		s.zScore, s.isAnomaly = 0, false
	default:
		s.zScore, s.isAnomaly = math.Copysign(zMax, value-mean), enough
	}
	if len(s.values) == windowSize {
		s.values = s.values[1:]
	}
	s.values = append(s.values, value)
	s.total++
	if s.isAnomaly {
		s.anomalies++
	}
}

type streams struct {
	byMetric      map[string]*stream
	lastTimestamp int64
}

func newStreams() *streams {
	return &streams{byMetric: make(map[string]*stream)}
}

func (s *streams) observe(one *sample) {
	one.each(func(metric string, value float64) {
		found := s.byMetric[metric]
		if found == nil {
			found = &stream{}
			s.byMetric[metric] = found
		}
		found.observe(value)
	})
	s.lastTimestamp = one.Timestamp
}

func (one *sample) each(visit func(metric string, value float64)) {
	if one.CPU != nil {
		visit("cpu", *one.CPU)
	}
	if one.RPS != nil {
		visit("rps", *one.RPS)
	}
}

// windows are those of every device and of the fleet.
type windows struct {
	mutex   sync.Mutex
	fleet   *streams
	devices map[string]*streams
}

func newWindows() *windows {
	return &windows{fleet: newStreams(), devices: make(map[string]*streams)}
}

// judged is what was found of one value: mean and score are the fleet's; it is an anomaly by its
// device's window or, without a device, by the fleet's.
type judged struct {
	metric    string
	mean      float64
	zScore    float64
	isAnomaly bool
}

// observe judges a sample's values, each by the windows that it then enters.
func (w *windows) observe(one *sample) []judged {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.fleet.observe(one)
	of := w.fleet
	if one.Device != nil {
		if of = w.devices[*one.Device]; of == nil {
			of = newStreams()
			w.devices[*one.Device] = of
		}
		of.observe(one)
	}
	var all []judged
	one.each(func(metric string, _ float64) {
		fleet := w.fleet.byMetric[metric]
		mean, _ := fleet.moments()
		all = append(all, judged{metric, mean, fleet.zScore, of.byMetric[metric].isAnomaly})
	})
	return all
}

type streamReport struct {
	Count      int     `json:"count"`
	Mean       float64 `json:"mean"`
	StdDev     float64 `json:"stdDev"`
	ZScore     float64 `json:"zScore"`
	IsAnomaly  bool    `json:"isAnomaly"`
	Anomalies  int     `json:"anomalyCount"`
	TotalCount int     `json:"totalCount"`
	Last       float64 `json:"last"`
}

// report is sigmad's answer of /analyze, less the quantiles; the top level speaks of rps.
type report struct {
	Scope         string                  `json:"scope"`
	Device        *string                 `json:"device"`
	Detector      string                  `json:"detector"`
	WindowSize    int                     `json:"windowSize"`
	ThresholdZ    float64                 `json:"thresholdZ"`
	Count         int                     `json:"count"`
	RollingAvg    *float64                `json:"rollingAvg"`
	StdDev        *float64                `json:"stdDev"`
	ZScore        *float64                `json:"zScore"`
	IsAnomaly     bool                    `json:"isAnomaly"`
	AnomalyCount  int                     `json:"anomalyCount"`
	TotalCount    int                     `json:"totalCount"`
	LastRPS       *float64                `json:"lastRps"`
	LastCPU       *float64                `json:"lastCpu"`
	LastTimestamp *int64                  `json:"lastTimestamp"`
	Metrics       map[string]streamReport `json:"metrics"`
}

// report tells the windows of one device, or of the fleet.
func (w *windows) report(device *string) report {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	of := w.fleet
	if device != nil {
		of = w.devices[*device]
	}
	r := report{
		Scope: "local", Device: device, Detector: "zscore", WindowSize: windowSize,
		ThresholdZ: threshold, Metrics: make(map[string]streamReport),
	}
	if of == nil {
		return r
	}
	for metric, s := range of.byMetric {
		mean, stdDev := s.moments()
		last := s.values[len(s.values)-1]
		r.Metrics[metric] = streamReport{
			len(s.values), mean, stdDev, s.zScore, s.isAnomaly, s.anomalies, s.total, last,
		}
		switch metric {
		case "cpu":
			r.LastCPU = &last
		case "rps":
			r.LastRPS, r.RollingAvg, r.StdDev = &last, &mean, &stdDev
			zScore := s.zScore
			r.ZScore, r.IsAnomaly, r.AnomalyCount = &zScore, s.isAnomaly, s.anomalies
			r.Count, r.TotalCount = len(s.values), s.total
		}
	}
	if len(of.byMetric) > 0 {
		timestamp := of.lastTimestamp
		r.LastTimestamp = &timestamp
	}
	return r
}
