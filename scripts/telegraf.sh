#!/usr/bin/env bash
# Builds Telegraf with the plugins that tests/senders/influx.py uses, into target/telegraf, and runs that test with it.
# SIGMAD names the binary of sigmad.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.37.2
folder=${CARGO_TARGET_DIR:-$PWD/target}/telegraf
plugins=custom,inputs.file,outputs.influxdb,outputs.influxdb_v2,outputs.http,parsers.influx,serializers.influx
if [[ ! -x $folder/$version/telegraf ]]; then
  # Without cgo: none of these plugins needs C.
  CGO_ENABLED=0 GOBIN=$folder/$version nice go install -buildvcs=false -ldflags="-s -w" -tags "$plugins" \
    "github.com/influxdata/telegraf/cmd/telegraf@$version"
fi
TELEGRAF=$folder/$version/telegraf exec .venv/bin/python tests/senders/influx.py
