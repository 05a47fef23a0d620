#!/bin/bash
# Real container engines for the tests, on a bare Debian 12 machine as root: a Docker Engine of our own, Apptainer,
# and two base images, with Python 3.11 and with Python 3.13.
#
#   engines.sh up DIR      start the engine in the new directory DIR, and print what to set, a NAME=VALUE per line
#   engines.sh restart DIR kill the daemon and start it again over the same directory; its containers end with it
#   engines.sh down DIR    end it, whatever runs in it, and remove DIR
#   engines.sh serve DIR   `up`, and `down` as soon as standard input ends: it dies with who started it
#   engines.sh with docker|apptainer COMMAND...
#                          `up`, the command with that engine and its image for toilcache's jobs, and `down`
#   engines.sh prepare     what `up` does first, once per machine: packages, Apptainer, images
#   engines.sh purge       remove what `prepare` has put into $CACHE
#
# The engine has its own socket, data and process directories below DIR, no network bridge and no firewall rules, so
# an engine that the machine has is not touched. Debian packages are installed as usual. All else that outlives
# `down` lies in $CACHE. Two of us may run at a time: `prepare` holds a lock, and each `up` has a directory of its own.
set -euo pipefail
umask 022

CACHE=${TESTBED_CACHE:-/var/cache/toilcache-testbed}
SNAPSHOT=2     # another number makes an older cache void
PREFIX=$CACHE/apptainer
PACKAGES="docker.io squashfs-tools squashfuse fuse3 uidmap patchelf libseccomp2 libcap2-bin zstd xfsprogs btrfs-progs"
IMAGE_PACKAGES="base-files bash ca-certificates coreutils dash grep libc-bin procps python3 python3-pip sed tar"
# Whoever here calls apt-get holds that lock: it waits for another's packages, but not for another's lists.
APT="flock /run/toilcache-testbed-apt apt-get -qq -o DPkg::Lock::Timeout=600"
DOCKER=/usr/bin/docker
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
# Commands of other people's configuration stay out of it.
unset DOCKER_HOST DOCKER_CONTEXT APPTAINER_BIND SINGULARITY_BIND

say() { echo "engines.sh: $*" >&2; }
die() { say "$*"; exit 1; }

# --- once per machine -----------------------------------------------------------------------------------------------

install_packages() {
    local missing
    missing=$(for name in $PACKAGES; do
        [ "$(dpkg-query -W -f '${Status}' "$name" 2>/dev/null)" = "install ok installed" ] || echo "$name"
    done)
    [ -n "$missing" ] || return 0
    say "installing" $missing
    $APT update
    # A daemon must not be started by its package: policy-rc.d is Debian's way to say so.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; made=yes; }
    $APT install -y --no-install-recommends $missing >/dev/null
    [ -z "$made" ] || rm -f $policy
}

# An apt with lists, state and packages of its own, so that newer suites never reach the machine's own packages.
private_apt() {
    local place=$1 mirror
    mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    mkdir -p "$place"/state/lists/partial "$place"/cache/archives/partial \
        "$place"/etc/{apt.conf.d,preferences.d,sources.list.d}
    : > "$place/status"
    cat > "$place/etc/sources.list.d/debian.sources" <<END
Types: deb
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: bookworm trixie sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    cat > "$place/apt.conf" <<END
Dir::State "$place/state";
Dir::State::status "$place/status";
Dir::Cache "$place/cache";
Dir::Etc "$place/etc";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
END
    export APT_CONFIG=$place/apt.conf
    apt-get -qq update
}

# Apptainer from sid wants a newer C library than bookworm has. It gets one beside itself: its two programs are told
# where, and what they start takes the machine's.
install_apptainer() {
    local work=$1 library=usr/lib/x86_64-linux-gnu name program
    say "unpacking Apptainer"
    mkdir -p "$work/debs" "$work/libc" "$work/apptainer/glibc"
    (cd "$work/debs" && apt-get -qq download apptainer/sid libc6/trixie)
    dpkg-deb -x "$work"/debs/apptainer_*.deb "$work/apptainer"
    dpkg-deb -x "$work"/debs/libc6_*.deb "$work/libc"
    for name in ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libresolv.so.2 \
        libnss_files.so.2 libnss_dns.so.2; do
        cp -a "$work/libc/$library/$name" "$work/apptainer/glibc/"
    done
    for program in usr/bin/apptainer $library/apptainer/bin/starter; do
        patchelf --set-interpreter "$PREFIX/glibc/ld-linux-x86-64.so.2" --force-rpath \
            --set-rpath "$PREFIX/glibc:/$library" "$work/apptainer/$program"
    done
    # The starter takes usr/lib for its prefix: it finds configuration and session directory through these links.
    mv "$work/apptainer/etc" "$work/apptainer/usr/etc"
    mkdir -p "$work/apptainer/usr/var/lib/apptainer/mnt/session"
    ln -s ../etc "$work/apptainer/usr/lib/etc"
    ln -s ../var "$work/apptainer/usr/lib/var"
    ln -sfn apptainer "$work/apptainer/usr/bin/singularity"
    sed -i 's/^systemd cgroups = .*/systemd cgroups = no/' "$work/apptainer/usr/etc/apptainer/apptainer.conf"
    rm -rf "$PREFIX"
    mv "$work/apptainer" "$PREFIX"
}

# A root file system out of the packages of a suite; no package script runs.
make_rootfs() {
    local root=$1 suite=$2 work=$3 name deb
    say "making an image of $suite"
    mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,proc,sys,dev,tmp,var/tmp,run,home,mnt,opt,root,etc/ssl/certs}
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
    chmod 1777 "$root/tmp" "$root/var/tmp"
    rm -f "$work"/cache/archives/*.deb
    apt-get -qq -y --download-only -t "$suite" install $IMAGE_PACKAGES >/dev/null
    for deb in "$work"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" -x --keep-directory-symlink \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
            --exclude='./usr/share/perl*' --exclude='./usr/share/zoneinfo/*'
    done
    printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n' > "$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' > "$root/etc/group"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    [ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
    [ -e "$root/usr/bin/sh" ] || ln -s dash "$root/usr/bin/sh"
    rm -f "$root"/usr/lib/python3.*/EXTERNALLY-MANAGED
    chroot "$root" /sbin/ldconfig
    chroot "$root" /usr/bin/python3 -c 'import ssl, sqlite3, ctypes'
    # The package scripts would do this; without it every start compiles what it imports.
    chroot "$root" /usr/bin/python3 -m compileall -q -x '/(dist-packages|idlelib|lib2to3|pydoc_data)/' \
        "/usr/lib/$(cd "$root/usr/lib" && echo python3.[0-9]*)"
}

make_images() {
    local work=$1 suite name
    for suite in bookworm:py311 trixie:py313; do
        name=${suite#*:}
        make_rootfs "$work/$name" "${suite%:*}" "$work"
        tar -C "$work/$name" --numeric-owner -cf "$work/$name.tar" .
        make_sif "$work/$name.sif" "$work/$name"
        mv "$work/$name.tar" "$work/$name.sif" "$CACHE/"
    done
}

make_sif() {
    APPTAINER_CACHEDIR=$(dirname "$1")/cache APPTAINER_TMPDIR=$(dirname "$1") "$PREFIX/usr/bin/apptainer" -q build --fakeroot \
        --mksquashfs-args "-comp zstd -Xcompression-level 1" "$1" "$2" 2>"$1.log" || die "$(cat "$1.log")"
}

# What a reboot or another container undoes.
open_devices() {
    [ ! -e /dev/fuse ] || chmod 666 /dev/fuse
    [ ! -e /dev/net/tun ] || chmod 666 /dev/net/tun
    grep -q '^root:' /etc/subuid || usermod --add-subuids 2000000-2065535 --add-subgids 2000000-2065535 root
}

prepare() (
    [ "$(id -u)" = 0 ] || die "needs root"
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    install_packages
    open_devices
    [ "$(cat "$CACHE/ready" 2>/dev/null)" != "$SNAPSHOT" ] || exit 0
    rm -rf "$CACHE"/work.*
    work=$(mktemp -d "$CACHE/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    private_apt "$work"
    install_apptainer "$work"
    make_images "$work"
    echo "$SNAPSHOT" > "$CACHE/ready"
)

# --- once per use ---------------------------------------------------------------------------------------------------

docker_in() { local dir=$1; shift; "$DOCKER" -H "unix://$dir/docker.sock" "$@"; }

start_engine() {
    local dir=$1
    # The directory of an engine that was killed may hold its containerd's pid, for which the next one would wait.
    rm -f "$dir"/exec/containerd/containerd.pid "$dir/docker.pid"
    setsid nohup /usr/sbin/dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
        --host "unix://$dir/docker.sock" --group root --bridge none --iptables=false --ip6tables=false --ip-masq=false \
        >>"$dir/dockerd.log" 2>&1 </dev/null 9>&- &
    local process=$!
    until docker_in "$dir" version >/dev/null 2>&1; do
        kill -0 "$process" 2>/dev/null || die "dockerd ended: $(tail -n 3 "$dir/dockerd.log")"
        sleep 0.1
    done
}

restart() {
    local dir=$1 pid
    pid=$(cat "$dir/docker.pid")
    kill -KILL "$pid"
    while kill -0 "$pid" 2>/dev/null && [ "$(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null)" != Z ]; do sleep 0.05; done
    for pid in $(pgrep -f -- "$dir/exec/" || true); do kill -KILL "$pid" 2>/dev/null || true; done
    start_engine "$dir"
}

is_up() { [ -S "$1/docker.sock" ] && docker_in "$1" version >/dev/null 2>&1; }

up() {
    local dir=$1 name
    prepare >&2
    mkdir -p "$dir"
    is_up "$dir" || start_engine "$dir"
    for name in py311 py313; do
        docker_in "$dir" image inspect "testbed:$name" >/dev/null 2>&1 ||
            docker_in "$dir" import --change 'CMD ["python3"]' \
                --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
                "$CACHE/$name.tar" "testbed:$name" >/dev/null
    done
    echo "DOCKER_HOST=unix://$dir/docker.sock"
    echo "APPTAINER=$PREFIX/usr/bin/apptainer"
    echo "IMAGES=$CACHE"
}

# Ends exactly the processes that work below DIR: the daemon by its pid file, then what it left.
down() {
    local dir=$1 pid
    [ -d "$dir" ] || return 0
    [ ! -S "$dir/docker.sock" ] || docker_in "$dir" ps -aq 2>/dev/null | xargs -r "$DOCKER" -H "unix://$dir/docker.sock" rm -f >/dev/null 2>&1 || true
    pid=$(cat "$dir/docker.pid" 2>/dev/null || true)
    [ -z "$pid" ] || end "$pid"
    for pid in $(pgrep -f -- "$dir/exec/" || true); do kill -KILL "$pid" 2>/dev/null || true; done
    awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r |
        while read -r mount; do umount -l "$mount" || true; done
    rm -rf --one-file-system "$dir"
}

end() {
    local pid=$1 tries
    kill -TERM "$pid" 2>/dev/null || return 0
    for tries in $(seq 100); do
        case $(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null) in '' | Z) return 0 ;; esac
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

serve() {
    served=$1
    trap 'down "$served"' EXIT
    trap 'exit 130' INT TERM HUP
    up "$1"
    echo READY
    cat >/dev/null
}

with() {
    local engine=$1 image
    shift
    served=$(mktemp -d /tmp/testbed-XXXXXX)
    trap 'down "$served"' EXIT
    trap 'exit 130' INT TERM HUP
    up "$served" >/dev/null
    case $engine in
        docker) image=testbed:py311 ;;
        apptainer | singularity) image=$CACHE/py311.sif ;;
        *) die "there is no engine $engine here: docker or apptainer" ;;
    esac
    DOCKER_HOST=unix://$served/docker.sock PATH=$PREFIX/usr/bin:$PATH \
        TOILCACHE_CONTAINER=$image TOILCACHE_CONTAINER_ENGINE=$engine "$@"
}

case ${1:-} in
    with) [ $# -gt 2 ] || die "usage: engines.sh with docker|apptainer COMMAND..."; shift; with "$@" ;;
    up | down | serve | restart) [ $# = 2 ] || die "usage: engines.sh $1 DIR"; "$1" "$(realpath -m "$2")" ;;
    prepare) prepare ;;
    purge) rm -rf "$CACHE" ;;
    *) die "usage: engines.sh up|down|serve|restart DIR | with ENGINE COMMAND... | prepare | purge" ;;
esac
