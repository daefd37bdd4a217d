// What Prometheus sends by remote_write, without its scrapes: its agent's log on disk and its remote storage, with the
// configuration that is given. It reads points from standard input, a line of JSON each, and answers an empty line
// with one that says how many points are written and what its remote storage has counted.
//
//	remote CONFIG FOLDER
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/agent"
)

// How long the end waits for what has not been sent.
const flushDeadline = time.Minute

// A line of histograms with many buckets is longer than a scanner takes by itself.
const lineBytesMax = 1 << 20

type point struct {
	Labels    map[string]string         `json:"labels"`
	TimeMs    int64                     `json:"timeMs"`
	Value     float64                   `json:"value"`
	Histogram *histogram.Histogram      `json:"histogram"`
	Floats    *histogram.FloatHistogram `json:"floats"`
	Metadata  metadata.Metadata         `json:"metadata"`
}

// The sums of its counters and gauges whose names begin so.
func counted(registry *prometheus.Registry, prefix string) (map[string]float64, error) {
	families, err := registry.Gather()
	sums := map[string]float64{}
	for _, family := range families {
		if name, found := strings.CutPrefix(family.GetName(), prefix); found {
			for _, metric := range family.GetMetric() {
				sums[name] += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return sums, err
}

func write(app storage.AppenderV2, line []byte) error {
	var each point
	if err := json.Unmarshal(line, &each); err != nil {
		return err
	}
	options := storage.AppendV2Options{Metadata: each.Metadata}
	named := labels.FromMap(each.Labels)
	_, err := app.Append(0, named, 0, each.TimeMs, each.Value, each.Histogram, each.Floats, options)
	return err
}

func serve(registry *prometheus.Registry, db *agent.DB) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	app := db.AppenderV2(context.Background())
	written := 0
	for lines.Scan() {
		if len(lines.Bytes()) > 0 {
			if err := write(app, lines.Bytes()); err != nil {
				return fmt.Errorf("%s: %w", lines.Text(), err)
			}
			written++
			continue
		}
		if err := app.Commit(); err != nil {
			return err
		}
		app = db.AppenderV2(context.Background())
		sums, err := counted(registry, "prometheus_remote_storage_")
		if err != nil {
			return err
		}
		sums["written"] = float64(written)
		answer, err := json.Marshal(sums)
		if err != nil {
			return err
		}
		fmt.Println(string(answer))
	}
	return lines.Err()
}

func run(path, folder string) error {
	logger := promslog.New(&promslog.Config{})
	settings, err := config.LoadFile(path, true, logger)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	began := time.Now().UnixMilli()
	startTime := func() (int64, error) { return began, nil }
	sender := remote.NewStorage(logger, registry, startTime, folder, flushDeadline, nil, false)
	options := agent.DefaultOptions()
	options.EnableMetadataWALRecords = true
	db, err := agent.Open(logger, registry, sender, folder, options)
	if err != nil {
		return err
	}
	db.SetWriteNotified(sender)
	if err := sender.ApplyConfig(settings); err != nil {
		return err
	}
	if err := serve(registry, db); err != nil {
		return err
	}
	if err := sender.Close(); err != nil {
		return err
	}
	return db.Close()
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}
