#!/usr/bin/env bash
# Gives Redis a new password, and loses no sample: both passwords are valid until every pod has the new one. Nothing
# restarts. CONTEXT names another cluster than that of the current context.
set -euo pipefail

in_sigmad() { kubectl ${CONTEXT:+--context "$CONTEXT"} --namespace sigmad "$@"; }
in_redis() { in_sigmad exec sigmad-redis-0 -- sh /etc/redis/cli.sh -e "$@"; }
# Redis takes a password by its hash, so that no command line shows it.
hash_of() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }

# A kubelet writes a changed Secret into its pods within some two minutes.
WAIT_S=300
STEP_S=${ROTATE_STEP_S:-5}

old=$(in_sigmad get secret sigmad-redis --output jsonpath='{.data.password}' | base64 -d)
new=$(openssl rand -hex 24)
echo "Redis: the new password is valid beside the old one"
in_redis ACL SETUSER default "#$(hash_of "$new")"
printf %s "$new" | in_sigmad create secret generic sigmad-redis --from-file=password=/dev/stdin --dry-run=client --output yaml |
  in_sigmad apply -f -
echo "waiting until the pods have the new Secret"
deadline=$((SECONDS + WAIT_S))
until [[ $(in_sigmad exec sigmad-redis-0 -- cat /etc/redis-auth/password) == "$new" ]]; do
  if ((SECONDS > deadline)); then
    echo "the pod of Redis still has the old Secret; both passwords stay valid" >&2
    exit 1
  fi
  sleep "$STEP_S"
done
# A replica whose file is older reads it again when Redis refuses the password; until then its samples wait.
in_redis ACL SETUSER default "!$(hash_of "$old")"
echo "Redis: the old password is no longer valid"
