#!/bin/sh
# chroot.sh ROOT-DIRECTORY APT-CACHE COMMAND…
# Runs a command in a root file system with /proc, /sys, a small /dev and the archives of apt's cache directory
# (nothing for ""). Services are kept from starting. What it mounts disappears with its namespace.
set -eu
root=$1 cache=$2
shift 2
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
if [ -n "$cache" ]; then
    mount --bind "$cache/archives" "$root/var/cache/apt/archives"
    mount --bind "$cache/lists" "$root/var/lib/apt/lists"
fi
# Name resolution as on the host, wherever the image's resolv.conf points.
if [ -L "$root/etc/resolv.conf" ]; then
    target=$(readlink "$root/etc/resolv.conf")
    case $target in
    /run/* | ../run/*)
        mkdir -p "$(dirname "$root/run/${target#*run/}")"
        cat /etc/resolv.conf >"$root/run/${target#*run/}"
        ;;
    esac
elif [ -e "$root/etc/resolv.conf" ]; then
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
if [ -d "$root/usr/sbin" ] && [ ! -e "$root/usr/sbin/policy-rc.d" ]; then
    mkdir "$root/run/policy"
    printf '#!/bin/sh\nexit 101\n' >"$root/run/policy/policy-rc.d"
    chmod 755 "$root/run/policy/policy-rc.d"
    ln -sf /run/policy/policy-rc.d "$root/usr/sbin/policy-rc.d"
    trap 'rm -f "$root/usr/sbin/policy-rc.d"' EXIT
fi
status=0
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@" || status=$?
exit "$status"
