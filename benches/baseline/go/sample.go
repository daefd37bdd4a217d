package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// valueMax: larger magnitudes are refused.
const valueMax = 1e15

// sample is one reading of both metrics, or of one. Device is nil for a sample of the fleet alone.
type sample struct {
	Timestamp int64    `json:"timestamp"`
	Device    *string  `json:"device,omitempty"`
	CPU       *float64 `json:"cpu,omitempty"`
	RPS       *float64 `json:"rps,omitempty"`
}

// incoming is a sample as it comes, or {"metrics":[…]}.
type incoming struct {
	Timestamp *int64     `json:"timestamp"`
	Device    *string    `json:"device"`
	DeviceID  *string    `json:"device_id"`
	CPU       *float64   `json:"cpu"`
	RPS       *float64   `json:"rps"`
	Metrics   []incoming `json:"metrics"`
}

// parse reads the samples of a body: one object, an array, {"metrics":[…]}, or several of these after
// each other. Nothing of the body is kept when one of them is wrong.
func parse(body io.Reader) ([]sample, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var all []incoming
	if trimmed := bytes.TrimLeft(text, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		if err := json.Unmarshal(text, &all); err != nil {
			return nil, err
		}
	} else {
		decoder := json.NewDecoder(bytes.NewReader(text))
		for {
			var one incoming
			if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if one.Metrics != nil {
				all = append(all, one.Metrics...)
			} else {
				all = append(all, one)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no samples")
	}
	samples := make([]sample, 0, len(all))
	for i := range all {
		one, err := all[i].check()
		if err != nil {
			return nil, err
		}
		samples = append(samples, one)
	}
	return samples, nil
}

func (in *incoming) check() (sample, error) {
	one := sample{Device: in.Device, CPU: in.CPU, RPS: in.RPS}
	if one.Device == nil {
		one.Device = in.DeviceID
	}
	if in.Timestamp != nil {
		one.Timestamp = *in.Timestamp
	} else {
		one.Timestamp = time.Now().Unix()
	}
	if in.CPU == nil && in.RPS == nil {
		return sample{}, errors.New("a sample needs cpu or rps")
	}
	for _, metric := range []struct {
		name  string
		value *float64
	}{{"cpu", in.CPU}, {"rps", in.RPS}} {
		if metric.value != nil && (*metric.value < 0 || *metric.value > valueMax) {
			return sample{}, fmt.Errorf("%s is out of range", metric.name)
		}
	}
	return one, nil
}
