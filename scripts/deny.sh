#!/usr/bin/env bash
# Licences, duplicates and sources of the dependencies; advisories where their database can be had.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deny check --hide-inclusion-graph bans licenses sources
if cargo deny fetch db >/dev/null 2>&1; then
  cargo deny check --hide-inclusion-graph advisories
else
  echo "advisories: NOT checked, their database cannot be reached from here"
fi
