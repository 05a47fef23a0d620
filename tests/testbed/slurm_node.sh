#!/bin/bash
# The first process of a node of the Slurm test-bed: PID 1 of its namespaces. Its end is the power cut.
#   slurm_node.sh NAME BASE [DIRECTORY...]
# A node has a host name, /tmp, /var/tmp, /dev/shm, /local and /run/user of its own; BASE/shared and the given
# directories stay the host's.
set -eu
name=$1 base=$2
shift 2
hostname "$name"
kept=$base/run/kept
mount -t tmpfs -o mode=0755 tmpfs "$kept"
for directory; do
    mkdir -p "$kept$directory"
    mount --rbind "$directory" "$kept$directory"
done
for directory in /tmp /var/tmp /dev/shm "$base/local"; do
    mount -t tmpfs -o mode=1777,size=4g tmpfs "$directory"
done
mount -t tmpfs -o mode=0755 tmpfs /run/user
for directory; do
    mkdir -p "$directory"
    mount --move "$kept$directory" "$directory"
done
umount -l "$kept"
mount --bind "$base/etc/hosts" /etc/hosts
echo "$name" >/run/user/.hostname
mount --bind /run/user/.hostname /etc/hostname
: >/run/user/.resolv # no name server: a look-up fails at once instead of after seconds
mount --bind /run/user/.resolv /etc/resolv.conf
slurmd -f "$base/etc/slurm.conf" -N "$name"
touch "$base/run/$name.ready"
while :; do # bash reaps what loses its parent
    sleep 3600 &
    wait $!
done
