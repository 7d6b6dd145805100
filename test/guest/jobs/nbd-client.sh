# nbd-client.sh PORT EXPORT CONNECTIONS - the kernel's NBD client, by way of the example script: connect, ext4, files,
# fstrim, unmount, disconnect, connect again, compare. Prints `sha256 HASH FILE` per file.
set -eu
port=$1 export=$2 connections=$3
device=/dev/nbd0

sh ./example.sh up 10.0.2.2 "$port" "$export" "$device" /mnt "$connections"
nbd-client -c "$device" > /dev/null
echo "guest: $(blockdev --getsize64 "$device") bytes, flush $(cat /sys/block/nbd0/queue/write_cache), fua $(cat /sys/block/nbd0/queue/fua)"
mkdir -p /mnt/files/deep
for i in 0 1 2 3; do seq $((i * 1000000)) $((i * 1000000 + 50000)) > "/mnt/files/numbers-$i"; done
dd if=/dev/urandom of=/mnt/files/deep/random bs=64k count=32 2>/dev/null
echo small > /mnt/files/deep/small
dd if=/dev/urandom of=/mnt/big bs=1M count=16 2>/dev/null
sync
rm /mnt/big
sync
fstrim -v /mnt
(cd /mnt/files && find . -type f | sort | xargs sha256sum) > /tmp/before
sh ./example.sh down "$device" /mnt
nbd-client -c "$device" > /dev/null && exit 1

sh ./example.sh up 10.0.2.2 "$port" "$export" "$device" /mnt "$connections"
(cd /mnt/files && find . -type f | sort | xargs sha256sum) > /tmp/after
cmp /tmp/before /tmp/after
sed 's/^/sha256 /' /tmp/after
sh ./example.sh down "$device" /mnt
