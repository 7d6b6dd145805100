#!/bin/bash
# Runs a virtual machine whose disk is replicated while it runs: a hub, an agent that serves the disk over NBD, and
# QEMU with -drive file=nbd:localhost:PORT. When the machine is off, the replica equals the disk.
#
#   examples/qemu-guest.sh --image disk.img [--create 20G] [--replica replica.img] [--drive OPTIONS] [-- QEMU OPTIONS]
#
#   --image FILE     the machine's disk, a raw image
#   --create SIZE    make it first if there is none, empty
#   --replica FILE   the copy that the hub keeps; FILE.replica unless told. In real life it is on another machine
#   --drive OPTIONS  more of QEMU's -drive options, e.g. discard=unmap,cache=writethrough
#   QEMU OPTIONS     everything else of the machine, e.g. -enable-kvm -m 2G -cdrom debian.iso
#
# Set REPAGENT if the program is not in the PATH, and QEMU for another emulator than qemu-system-x86_64.
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

image='' create='' replica='' drive=''
while [ $# -gt 0 ]; do
  case $1 in
    --image) image=${2:?}; shift 2 ;;
    --create) create=${2:?}; shift 2 ;;
    --replica) replica=${2:?}; shift 2 ;;
    --drive) drive=,${2:?}; shift 2 ;;
    --) shift; break ;;
    *) usage ;;
  esac
done
[ -n "$image" ] || usage
replica=${replica:-$image.replica}
read -r -a repagent <<< "${REPAGENT:-repagent}"

# The hub's image must exist and be as large as the disk.
if [ ! -e "$image" ] && [ -n "$create" ]; then truncate -s "$create" "$image"; fi
size=$(stat -c %s "$image")
if [ ! -e "$replica" ]; then truncate -s "$size" "$replica"; fi

scratch=$(mktemp -d)
qemu_pid='' serve_pid='' hub_pid=''
# The machine first; then the agent, which sends what is left and tells the hub; then the hub.
stop() {
  local pid
  for pid in $qemu_pid $serve_pid $hub_pid; do
    kill "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 130' INT TERM

# The port that a process says it listens on: `listening nbd://127.0.0.1:40123 exports=disk`.
port_of() {
  local pid=$1 file=$2 line
  for _ in $(seq 150); do
    line=$(grep -m 1 '^listening ' "$file" || true)
    if [ -n "$line" ]; then
      sed -E 's|.*://[^ /]*:([0-9]+).*|\1|' <<< "$line"
      return
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "repagent did not start:" >&2
  cat "$scratch"/*.log >&2
  exit 1
}

"${repagent[@]}" hub "disk=$replica" --listen 127.0.0.1:0 --control "unix:$scratch/hub.sock" \
  --state-dir "$scratch/hub" > "$scratch/hub.out" 2> "$scratch/hub.log" &
hub_pid=$!
hub_port=$(port_of "$hub_pid" "$scratch/hub.out")

"${repagent[@]}" serve "disk=$image" --listen 127.0.0.1:0 --hub "127.0.0.1:$hub_port" \
  --control "unix:$scratch/serve.sock" > "$scratch/serve.out" 2> "$scratch/serve.log" &
serve_pid=$!
port=$(port_of "$serve_pid" "$scratch/serve.out")

echo "The disk is nbd:localhost:$port; watch its replication with: repagent status --watch --control unix:$scratch/serve.sock" >&2

"${QEMU:-qemu-system-x86_64}" -drive "file=nbd:localhost:$port,format=raw,if=virtio$drive" "$@" <&0 &
qemu_pid=$!
result=0
wait "$qemu_pid" || result=$?
qemu_pid=''

# The machine is off and writes no more: wait until the hub has it all.
"${repagent[@]}" wait --state protected --timeout 600 --control "unix:$scratch/serve.sock" >&2
stop
trap - EXIT
if cmp -- "$image" "$replica"; then
  echo "$replica equals $image." >&2
else
  result=1
fi
exit "$result"
