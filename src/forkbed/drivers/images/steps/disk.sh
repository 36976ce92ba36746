#!/bin/sh
# disk.sh ROOT-DIRECTORY RAW-FILE SIZE-BYTES FS-UUID JOURNAL-MIB
# Makes a bootable disk: MBR, one ext4 partition with the directory's content, extlinux in it.
#
# The loop device is the mount's own (autoclear): it goes when the mount goes, and the mount goes with the namespace.
set -eu
root=$1 disk=$2 size=$3 uuid=$4 journal=$5
start=1048576
rm -f "$disk"
truncate -s "$size" "$disk"
printf 'label: dos\nlabel-id: 0x%s\nstart=2048, type=83, bootable\n' "$(echo "$uuid" | cut -c 1-8)" |
    sfdisk --quiet --no-reread --no-tell-kernel "$disk"
# Without the features that extlinux cannot read; tables written now, so that a guest does not write them later.
mke2fs -q -F -t ext4 -b 4096 -i 16384 -m 1 -J "size=$journal" -U "$uuid" -L forkbed-root \
    -O ^64bit,^metadata_csum_seed,^orphan_file -d "$root" \
    -E "offset=$start,lazy_itable_init=0,lazy_journal_init=0,hash_seed=$uuid,root_owner=0:0" \
    "$disk" "$(((size - start) / 1024))k"
mkdir -p "$disk.mount"
mount -t ext4 -o "loop,offset=$start,noatime" "$disk" "$disk.mount"
# mke2fs leaves holes where a file has zeros, and extlinux cannot load a file with holes: write them out, in place.
for file in "$disk.mount"/boot/vmlinuz* "$disk.mount"/boot/initrd*; do
    [ -f "$file" ] && [ ! -L "$file" ] || continue
    dd if="$file" of="$file" bs=1M conv=notrunc status=none
done
said=$(extlinux --install "$disk.mount/boot/extlinux" 2>&1) || { echo "$said" >&2; exit 1; }
umount "$disk.mount"
rmdir "$disk.mount"
for mbr in /usr/lib/EXTLINUX/mbr.bin /usr/lib/syslinux/mbr/mbr.bin; do
    [ -r "$mbr" ] && exec dd if="$mbr" of="$disk" bs=440 count=1 conv=notrunc status=none
done
echo "mbr.bin of extlinux is missing" >&2
exit 1
