#!/bin/sh
# Puts a replicated disk on Linux itself, without a virtual machine: the kernel's NBD client (package nbd-client) on
# a device /dev/nbdX, with a file system on top. Run it as root beside or away from `repagent serve`.
#
#   examples/nbd-client.sh up HOST PORT EXPORT DEVICE MOUNTPOINT [CONNECTIONS]
#       connects, makes ext4 if the disk is empty, mounts
#   examples/nbd-client.sh down DEVICE MOUNTPOINT
#       unmounts, disconnects
#
# e.g.  examples/nbd-client.sh up 127.0.0.1 10809 data /dev/nbd0 /mnt 4
#
# About the options: without -timeout a request on a dead connection hangs for ever. -persist is left out because it
# does not reconnect with current kernels; after a lost server run `nbd-client -d DEVICE`, then `up` again.
set -eu

usage() {
  sed -n '/^#   /s/^#   //p' "$0" >&2
  exit 2
}

up() {
  [ $# -ge 5 ] || usage
  host=$1 port=$2 export=$3 device=$4 mountpoint=$5 connections=${6:-1}
  modprobe nbd
  nbd-client "$host" "$port" "$device" -name "$export" -connections "$connections" -timeout 30
  # Discard sends TRIM, which gives the space back on the disk and on the replica.
  # blkid says 2 when it finds nothing; anything else it says must not cost anyone a disk.
  found=0
  blkid -p "$device" || found=$?
  if [ "$found" -eq 2 ]; then
    mkfs.ext4 -q "$device"
  elif [ "$found" -ne 0 ]; then
    exit 1
  fi
  mount -o discard "$device" "$mountpoint"
  echo "$device is mounted on $mountpoint"
}

down() {
  [ $# -ge 2 ] || usage
  device=$1 mountpoint=$2
  umount "$mountpoint"
  nbd-client -d "$device"
}

command=${1-}
[ $# -eq 0 ] || shift
case $command in
  up) up "$@" ;;
  down) down "$@" ;;
  *) usage ;;
esac
