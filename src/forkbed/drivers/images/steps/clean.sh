#!/bin/sh
# Runs inside the new root file system: remove what only the build needed, and what may belong to one machine only.
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt/* /tmp/* /run/lock 2>/dev/null
rm -f /etc/ssh/ssh_host_* /etc/dropbear/*_host_key /var/lib/systemd/random-seed
[ ! -e /etc/machine-id ] || : >/etc/machine-id
find /var/lib/forkbed -mindepth 1 -delete 2>/dev/null
exit 0
