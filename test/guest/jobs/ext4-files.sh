# ext4-files.sh DEVICE [trim] - makes ext4, writes files that each block of can be told apart, checks them after a
# remount; with `trim`, deletes a big one and gives its space back. Prints `sha256 HASH FILE` per file.
set -eu
device=$1
mkfs.ext4 -q -F "$device"
mount -t ext4 "$device" /mnt

mkdir -p /mnt/files/deep/er
for i in 0 1 2 3 4 5; do seq $((i * 1000000)) $((i * 1000000 + 60000)) > "/mnt/files/numbers-$i"; done
dd if=/dev/urandom of=/mnt/files/deep/random bs=64k count=48 2>/dev/null
dd if=/dev/urandom of=/mnt/files/deep/sparse bs=4k count=3 seek=1000 2>/dev/null
echo small > /mnt/files/deep/er/small
: > /mnt/files/deep/er/empty
mv /mnt/files/numbers-5 /mnt/files/deep/renamed
rm /mnt/files/numbers-4
sync

if [ "${2-}" = trim ]; then
  dd if=/dev/urandom of=/mnt/big bs=1M count=24 2>/dev/null
  sync
  echo "guest: big file written"
  rm /mnt/big
  sync
  fstrim -v /mnt
fi

umount /mnt
e2fsck -fn "$device"
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o ro "$device" /mnt
cd /mnt/files
find . -type f | sort | while read -r file; do echo "sha256 $(sha256sum "$file")"; done
cd /
umount /mnt
