#!/bin/sh
# redis-cli in the pod of Redis, for the probes and for k8s/rotate-password.sh. The password is that of the mounted
# Secret: while it is changed, it is newer than the environment.
REDISCLI_AUTH=$(cat /etc/redis-auth/password)
export REDISCLI_AUTH
# The production overlay has TLS only.
[ ! -e /etc/redis-tls/ca.crt ] || set -- --tls --cacert /etc/redis-tls/ca.crt "$@"
exec redis-cli "$@"
