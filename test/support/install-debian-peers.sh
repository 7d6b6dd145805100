#!/bin/bash
# Checks for the third-party programs that the suites talk to, and installs the missing ones on Debian and
# Ubuntu when it may (root or passwordless sudo); otherwise prints the one line to run and exits 1.
# Installs only packages of what is missing, and never removes or upgrades anything on purpose.
#   install-debian-peers.sh [--guest] [--bench] [--print]
#     --guest  also what booting a virtual machine needs (npm run test:guest)
#     --bench  also the servers that the bench compares with (npm run bench)
#     --print  list the packages of everything checked, missing or not, and do nothing
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# PROGRAM=PACKAGE; a path instead of a program means that the file must be there.
peers=(
  qemu-img=qemu-utils qemu-io=qemu-utils qemu-nbd=qemu-utils
  nbdkit=nbdkit
  nbdcopy=libnbd-bin nbdinfo=libnbd-bin nbdsh=python3-libnbd
  fio=fio
  nbd-client=nbd-client
  tshark=tshark
  mke2fs=e2fsprogs e2fsck=e2fsprogs debugfs=e2fsprogs
  losetup=mount
  openssl=openssl certtool=gnutls-bin psktool=gnutls-bin gnutls-cli=gnutls-bin
  cmp=diffutils
  ps=procps
  systemd-socket-activate=systemd systemd-analyze=systemd
  cc=gcc /usr/include/stdint.h=libc6-dev
)
guest_peers=(
  qemu-system-x86_64=qemu-system-x86
  busybox=busybox-static
  cpio=cpio
  depmod=kmod modprobe=kmod
  xz=xz-utils zstd=zstd
  sqlite3=sqlite3
)

bench_peers=(
  nbd-server=nbd-server
  qemu-storage-daemon=qemu-system-common
  setpriv=util-linux
  dd=coreutils
)

guest=false bench=false print=false
for argument; do
  case $argument in
    --guest) guest=true ;;
    --bench) bench=true ;;
    --print) print=true ;;
    *) echo "usage: $0 [--guest] [--bench] [--print]" >&2; exit 2 ;;
  esac
done
if $guest; then peers+=("${guest_peers[@]}"); fi
if $bench; then peers+=("${bench_peers[@]}"); fi

if $print; then
  printf '%s\n' "${peers[@]#*=}" | sort -u
  exit 0
fi

present() {
  case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Fills `missing` (programs) and `packages` (what to install for them).
find_missing() {
  missing=() packages=()
  local peer program package
  for peer in "${peers[@]}"; do
    program=${peer%%=*} package=${peer#*=}
    present "$program" && continue
    missing+=("$program")
    [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
  done
}

find_missing
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
echo "The tests need programs that are not here: ${missing[*]}" >&2

as_root=()
if ! command -v apt-get >/dev/null; then
  echo "This is no Debian or Ubuntu: install them with your package manager (Debian calls the packages ${packages[*]})." >&2
  exit 1
elif [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    echo "Run this as root, then try again:" >&2
    echo "    $by_hand" >&2
    exit 1
  fi
fi

# env rather than an assignment: sudo drops the environment.
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
    apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Installing ${packages[*]} ..." >&2
for attempt in 1 2 3; do
  if { apt update && apt install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then break; fi
  if [ "$attempt" = 3 ]; then
    tail -n 40 "$log" >&2
    echo "apt-get failed. By hand, as root:" >&2
    echo "    $by_hand" >&2
    exit 1
  fi
  sleep $((attempt * 3))
done

find_missing
if [ ${#missing[@]} -gt 0 ]; then
  echo "Still missing after installing: ${missing[*]}" >&2
  exit 1
fi
