#!/usr/bin/env bash
# The whole demonstration on Minikube: a cluster, the image, sigmad and its monitoring; load on, replicas 2 to 5, an
# alert; load off, back to 2; then a table of results.
#
#   k8s/demo.sh                  everything; a second run does only what is missing
#   k8s/demo.sh --no-monitoring  without Prometheus and Grafana (needs no helm)
#   k8s/demo.sh --down           deletes the cluster and everything in it
#
# It uses a cluster of its own, the Minikube profile PROFILE. The load is RATE requests per second, in RUNS runs
# of DURATION each.
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE=${PROFILE:-sigmad}
RATE=${RATE:-3000}
DURATION=${DURATION:-30s}
RUNS=${RUNS:-8}
CPUS=${CPUS:-4}
MEMORY=${MEMORY:-4g}
# Of the charts: those whose values k8s/monitoring has.
PROMETHEUS_CHART=29.27.0
GRAFANA_CHART=12.11.1
VERSION=$(sed -n '/^version = /{s/[^"]*"\(.*\)"/\1/p;q}' Cargo.toml)
IMAGE=sigmad:$VERSION
monitoring=yes

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}
cluster() { kubectl --context "$PROFILE" "$@"; }
in_sigmad() { cluster --namespace sigmad "$@"; }
chart() { helm --kube-context "$PROFILE" --namespace monitoring "$@"; }

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
  done
}

for argument in "$@"; do
  case $argument in
    --no-monitoring) monitoring=no ;;
    --down)
      need minikube
      exec minikube delete --profile "$PROFILE"
      ;;
    *) fail "$argument is not known; see the head of this file" ;;
  esac
done

need minikube kubectl python3
[[ $monitoring == no ]] || need helm

say "cluster: Minikube profile $PROFILE"
if [[ $(minikube status --profile "$PROFILE" --format '{{.APIServer}}' 2>/dev/null || true) != Running ]]; then
  minikube start --profile "$PROFILE" --cpus "$CPUS" --memory "$MEMORY"
fi
# The autoscaler reads CPU metrics from it.
minikube addons enable metrics-server --profile "$PROFILE"

say "image: $IMAGE, built on the node (minutes at first)"
minikube image build --profile "$PROFILE" --tag "$IMAGE" .
# A failed build does not always set its exit code.
minikube image ls --profile "$PROFILE" | grep -q "sigmad:$VERSION\$" || fail "the image was not built"

if [[ $monitoring == yes ]]; then
  say "monitoring: rules, dashboard, Prometheus, Alertmanager, Grafana"
  cluster apply -k k8s/monitoring
  chart upgrade --install prometheus prometheus --repo https://prometheus-community.github.io/helm-charts \
    --version "$PROMETHEUS_CHART" --values k8s/monitoring/prometheus-values.yaml --wait --timeout 10m
  chart upgrade --install grafana grafana --repo https://grafana-community.github.io/helm-charts \
    --version "$GRAFANA_CHART" --values k8s/monitoring/grafana-values.yaml --wait --timeout 10m
fi

say "sigmad"
was_there=$(in_sigmad get deployment sigmad --ignore-not-found --output name 2>/dev/null || true)
cluster apply -k k8s/overlays/minikube
# The tag is unchanged, but the image may be new.
[[ -z $was_there ]] || in_sigmad rollout restart deployment/sigmad
in_sigmad rollout status statefulset/sigmad-redis --timeout 5m
in_sigmad rollout status deployment/sigmad --timeout 5m

say "load: $RUNS runs of $DURATION at $RATE requests a second"
in_sigmad delete job sigmad-load --ignore-not-found
watch_options=()
[[ $monitoring == yes ]] && watch_options+=(--alerts)
# The first CPU metrics take metrics-server a minute.
k8s/watch.py --context "$PROFILE" --until-ready
cluster kustomize k8s/loadgen \
  | sed -e "/name: RATE\$/{n;s/value: .*/value: \"$RATE\"/}" \
    -e "/name: DURATION\$/{n;s/value: .*/value: \"$DURATION\"/}" \
    -e "s/completions: .*/completions: $RUNS/" \
  | cluster apply -f -
k8s/watch.py --context "$PROFILE" "${watch_options[@]}"

say "look around"
if [[ $monitoring == yes ]]; then
  cat <<TEXT
Grafana:     kubectl --context $PROFILE -n monitoring port-forward service/grafana 3000:80
             http://localhost:3000/d/sigmad, user admin, password:
             kubectl --context $PROFILE -n monitoring get secret grafana -o jsonpath='{.data.admin-password}' | base64 -d
Alerts:      kubectl --context $PROFILE -n monitoring logs deployment/alert-webhook
TEXT
fi
cat <<TEXT
sigmad:      kubectl --context $PROFILE -n sigmad port-forward service/sigmad 8080:8080
             curl localhost:8080/analyze
All gone:    k8s/demo.sh --down
TEXT
