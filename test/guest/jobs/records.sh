# records.sh DEVICE raw|ext4 - writes numbered records for ever, to be killed. Prints `acked N` only after record N
# was fsynced. Record N is 4096 bytes: N, zero-padded, and a newline.
#   raw   record N lies on the device at N * 4096
#   ext4  record N lies in the file /log at N * 4096; other files change beside it and are never synced
set -eu
device=$1
target=$device
if [ "$2" = ext4 ]; then
  mkfs.ext4 -q -F "$device"
  mount -t ext4 "$device" /mnt
  sync
  target=/mnt/log
  (
    i=0
    while :; do
      seq $((i * 1000)) $((i * 1000 + 20000)) > "/mnt/noise-$((i % 5)).new"
      mv "/mnt/noise-$((i % 5)).new" "/mnt/noise-$((i % 5))"
      i=$((i + 1))
    done
  ) &
fi
n=0
while :; do
  printf '%04095d\n' "$n" > /tmp/record
  dd if=/tmp/record of="$target" bs=4096 seek="$n" conv=notrunc,fsync 2>/dev/null
  echo "acked $n"
  n=$((n + 1))
done
