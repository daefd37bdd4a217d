#!/bin/sh
# Prints the body that ab.sh and hey.sh send: one sample, or BATCH samples of 100 devices.
set -eu
awk -v batch="${BATCH:-1}" 'BEGIN {
    if (batch == 1) { printf "{\"timestamp\":1735100000,\"cpu\":60.5,\"rps\":2000}"; exit }
    for (i = 0; i < batch; i++)
        printf "%s{\"timestamp\":%d,\"device\":\"edge-%02d\",\"cpu\":%.1f,\"rps\":%d}",
            i ? "," : "[", 1735100000 + i, i % 100, 40 + i % 17 + 0.5, 1900 + i % 201
    printf "]"
}'
