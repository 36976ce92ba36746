#!/bin/sh
# extract.sh DISK-FILE FORMAT WORK-DIRECTORY ARCHIVE
# Packs the root file system of a disk into a tar archive, without the kernel ever looking at the file system: a
# storage daemon shows the disk as a raw file, and fuse2fs reads the ext file system in it.
set -eu
disk=$1 format=$2 work=$3 archive=$4
mkdir -p "$work/root"
: >"$work/disk"
qemu-storage-daemon \
    --blockdev "driver=file,node-name=file,filename=$disk,read-only=on,locking=off" \
    --blockdev "driver=$format,node-name=disk,file=file,read-only=on" \
    --export "type=fuse,id=disk,node-name=disk,mountpoint=$work/disk,writable=off" &
tries=0
until [ -s "$work/disk" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "the storage daemon does not show the disk" >&2; exit 1; }
    sleep 0.05
done

# The largest partition with an ext file system (magic number 0xEF53 in its superblock); else the whole disk.
best=0
offset=
for line in $(sfdisk --dump "$work/disk" | sed -n 's/.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1,\2/p') 0,0; do
    start=${line%,*} size=${line#*,}
    magic=$(dd if="$work/disk" bs=1 skip=$((start * 512 + 1080)) count=2 status=none | od -An -tx1 | tr -d ' ')
    if [ "$magic" = 53ef ] && { [ -z "$offset" ] || [ "$size" -gt "$best" ]; }; then
        best=$size
        offset=$((start * 512))
    fi
done
[ -n "$offset" ] || { echo "there is no ext2, ext3 or ext4 file system on the disk" >&2; exit 1; }
fuse2fs -o "ro,offset=$offset" "$work/disk" "$work/root" ||
    { echo "the ext file system on the disk cannot be read" >&2; exit 1; }
tar --create --zstd --numeric-owner --xattrs --xattrs-include='*' --file "$archive" --directory "$work/root" .
umount "$work/root"
