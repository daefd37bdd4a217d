// Posts one sample of this machine. Usage: go run sample.go [URL]
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"time"
)

func main() {
	url := "http://localhost:8080/ingest"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	host, err := os.Hostname()
	if err != nil {
		panic(err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	sample := map[string]any{
		"timestamp":  time.Now().UnixMilli(),
		"device":     host,
		"heap_bytes": memory.HeapAlloc,
		"goroutines": runtime.NumGoroutine(),
	}
	body, err := json.Marshal(sample)
	if err != nil {
		panic(err)
	}
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Status, string(text))
	if answer.StatusCode != http.StatusAccepted {
		os.Exit(1)
	}
}
