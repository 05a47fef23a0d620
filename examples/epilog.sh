#!/bin/sh
# For sites: an epilog of Slurm that removes from a node what dead workflows of the job's user have left there.
#
#   slurm.conf:  Epilog=/etc/slurm/epilog.d/toilcache.sh
#
# Workers clean their nodes themselves. This is for what nobody could clean: a node that lost its power and came back,
# a worker that was killed together with its batch script when no other job of the workflow came to that node. It
# waits for nothing, touches no workflow that may be alive, and its own trouble never drains the node. Set TOILCACHE to
# the command of an installation that compute nodes see.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH # Slurm sets none
TOILCACHE=${TOILCACHE:-/opt/toilcache/bin/toilcache}
[ -x "$TOILCACHE" ] && [ -n "${SLURM_JOB_USER:-}" ] || exit 0
timeout 60 runuser -u "$SLURM_JOB_USER" -- env HOME=/ "$TOILCACHE" node-cleanup --all >/dev/null 2>&1
exit 0
