// The server one would write first, in Go: net/http, encoding/json, a channel to a goroutine that judges
// behind a mutex and recomputes each window for every value, a SET for each sample before its answer,
// labelled metrics.
//
// It speaks as much of sigmad's API as the measurement needs, as benches/baseline/rust does: POST /ingest
// and /metrics (one object, an array, {"metrics":[…]}, lines), GET /analyze, /metrics and /healthz.
//
//	baseline-go --listen 127.0.0.1:8080 [--redis-url redis://127.0.0.1:6379] [--workers 1]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
)

const (
	// bodyBytesMax is as much as sigmad takes.
	bodyBytesMax = 8 << 20
	// batchesMax may wait for the goroutine that judges.
	batchesMax = 65536
	ttl        = 300 * time.Second
	drain      = 2 * time.Second
)

type server struct {
	windows *windows
	metrics *metrics
	batches chan batch
	redis   *redis.Client
}

// batch is the samples of one request, or a question: answered once all before it are judged.
type batch struct {
	samples []sample
	judged  chan<- struct{}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where to listen")
	redisURL := flag.String("redis-url", "", "write samples to this Redis")
	workers := flag.Int("workers", 1, "threads that run Go code at once")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)
	if err := run(*listen, *redisURL); err != nil {
		log.Fatal(err)
	}
}

func run(listen, redisURL string) error {
	s := &server{windows: newWindows(), metrics: newMetrics(), batches: make(chan batch, batchesMax)}
	if redisURL != "" {
		options, err := redis.ParseURL(redisURL)
		if err != nil {
			return err
		}
		s.redis = redis.NewClient(options)
		if err := s.redis.Ping(context.Background()).Err(); err != nil {
			return err
		}
	}
	go s.judge()

	mux := http.NewServeMux()
	mux.HandleFunc("POST /ingest", s.ingest(http.StatusAccepted))
	mux.HandleFunc("POST /metrics", s.ingest(http.StatusOK))
	mux.HandleFunc("GET /analyze", s.analyze)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "listening on %s\n", listener.Addr())
	httpServer := &http.Server{Handler: mux}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	stopped := make(chan error, 1)
	go func() {
		<-stop
		within, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		stopped <- httpServer.Shutdown(within)
	}()
	if err := httpServer.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return <-stopped
}

// judge lets the samples of every batch into their windows, in order.
func (s *server) judge() {
	for batch := range s.batches {
		for i := range batch.samples {
			s.metrics.judged(s.windows.observe(&batch.samples[i]))
		}
		if batch.judged != nil {
			close(batch.judged)
		}
	}
}

func (s *server) ingest(success int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		since := time.Now()
		status := success
		accepted, refusal := s.keep(w, r)
		if refusal != nil {
			status = refusal.status
			answer(w, status, map[string]any{"error": map[string]string{"message": refusal.message}})
		} else {
			answer(w, status, accepted)
		}
		s.metrics.answered(r.Method, r.URL.Path, strconv.Itoa(status), time.Since(since))
	}
}

type accepted struct {
	Status   string `json:"status"`
	Accepted int    `json:"accepted"`
}

type refusal struct {
	status  int
	message string
}

func (s *server) keep(w http.ResponseWriter, r *http.Request) (accepted, *refusal) {
	samples, err := parse(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		return accepted{}, &refusal{http.StatusBadRequest, err.Error()}
	}
	select {
	case s.batches <- batch{samples: samples}:
	default:
		return accepted{}, &refusal{http.StatusServiceUnavailable, "the queue is full"}
	}
	if s.redis != nil {
		for i := range samples {
			if err := s.store(r.Context(), &samples[i]); err != nil {
				return accepted{}, &refusal{http.StatusServiceUnavailable, err.Error()}
			}
		}
	}
	s.metrics.accepted(len(samples))
	return accepted{"accepted", len(samples)}, nil
}

func (s *server) store(ctx context.Context, one *sample) error {
	text, err := json.Marshal(one)
	if err != nil {
		return err
	}
	device := ""
	if one.Device != nil {
		device = *one.Device
	}
	return s.redis.Set(ctx, "sample:"+device, text, ttl).Err()
}

func (s *server) analyze(w http.ResponseWriter, r *http.Request) {
	judged := make(chan struct{})
	s.batches <- batch{judged: judged}
	<-judged
	var device *string
	if query := r.URL.Query(); query.Has("device") {
		name := query.Get("device")
		device = &name
	}
	answer(w, http.StatusOK, s.windows.report(device))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here is a client that has gone.
	_ = json.NewEncoder(w).Encode(body)
}
