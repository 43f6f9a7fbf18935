#!/usr/bin/env bash
# Runs the very steps of the Dockerfile in a fresh root file system, where there is no engine to build the image: debootstrap for FROM, the
# build arguments for ARG, chroot for RUN, the files that git knows for COPY, the user of USER, and at last the default command.
#     sudo bash benchmarks/studies/image.sh [--arg NAME=VALUE]... [--bind FOLDER]... [--mirror URL] [--keep]
# --mirror is that of Debian (left out: the default of debootstrap), --arg is a build argument, --bind shows a folder of this machine
# inside (a local index of packages), --keep leaves the file system.
# PIP_* variables and the configuration of pip are those of this machine. See docs/container.md for what this does not prove.
set -euo pipefail
cd "$(dirname "$0")/../.."
mirror='' keep='' binds=() args=()
while [ $# -gt 0 ]; do
    case $1 in
    --arg) args+=("$2") && shift 2 ;;
    --bind) binds+=("$2") && shift 2 ;;
    --mirror) mirror=$2 && shift 2 ;;
    --keep) keep=yes && shift ;;
    *) echo "unknown option $1" && exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "chroot needs root: sudo bash $0" && exit 2; }
scratch=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
root=$scratch/root
mounted=()
finish() {
    for place in "${mounted[@]}"; do umount "$place"; done
    if [ -n "$keep" ]; then echo "kept: $root"; else rm -rf --one-file-system "$scratch"; fi
}
trap finish EXIT
show() {
    mkdir -p "$root$1"
    mount --bind -o ro "$1" "$root$1"
    mounted=("$root$1" "${mounted[@]}")
}

declare -A value
where=/ user=0 started=$SECONDS
inside() { # runs words in the file system as the current user, with the build arguments in the environment
    local given=()
    for name in "${!value[@]}"; do given+=("$name=${value[$name]}"); done
    # shellcheck disable=SC2016
    chroot --userspec="$user:$user" "$root" /usr/bin/env -i HOME="$([ "$user" = 0 ] && echo /root || echo /home/scoresde)" LANG=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PIP_BREAK_SYSTEM_PACKAGES=1 "${passed[@]}" "${given[@]}" \
        /bin/bash -o pipefail -c 'cd "$0" && "$@"' "$where" "$@"
}
mapfile -t passed < <(env | grep '^PIP_' || true)

base() { # FROM python:X-slim-bookworm
    local suite=${1##*-slim-} debootstrap=debootstrap
    if ! command -v debootstrap >/dev/null; then
        (cd "$scratch" && apt-get download debootstrap 2>/dev/null && dpkg -x debootstrap_*.deb tool)
        export DEBOOTSTRAP_DIR=$scratch/tool/usr/share/debootstrap
        debootstrap=$scratch/tool/usr/sbin/debootstrap
    fi
    "$debootstrap" --variant=minbase --include=python3,python3-pip,ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >"$scratch/log" 2>&1 ||
        { tail -20 "$scratch/log" && exit 1; }
    ln -s /usr/bin/python3 "$root/usr/local/bin/python"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    for file in /etc/pip.conf /etc/xdg/pip; do [ -e "$file" ] && mkdir -p "$root${file%/*}" && cp -r "$file" "$root${file%/*}/"; done
    mount -t proc proc "$root/proc" && mounted=("$root/proc" "${mounted[@]}")
    for folder in "${binds[@]}"; do show "$folder"; done
}

while read -r word rest; do
    echo "== $word ${rest:0:150}"
    # shellcheck disable=SC2016
    case $word in
    FROM) base "${rest//'${PYTHON}'/${value[PYTHON]}}" ;;
    ARG)
        value[${rest%%=*}]=${rest#*=}
        for given in "${args[@]}"; do [ "${given%%=*}" != "${rest%%=*}" ] || value[${rest%%=*}]=${given#*=}; done
        ;;
    WORKDIR) where=$rest && mkdir -p "$root$rest" ;;
    COPY) git ls-files -z | tar --null --create --files-from - | chroot "$root" tar --extract --no-same-owner --directory "$where" ;;
    SHELL) ;; # that of inside
    RUN) inside /bin/bash -o pipefail -c "$rest" ;;
    USER) user=$rest ;;
    CMD)
        mapfile -t command < <(python3 -c 'import json, sys; print("\n".join(json.loads(sys.argv[1])))' "$rest")
        inside "${command[@]}"
        ;;
    *) echo "this script does not know $word" && exit 1 ;;
    esac
done < <(sed -e :a -e '/\\$/N; s/\\\n *//; ta' Dockerfile | grep -vE '^(#|$)')
[ "$(inside id -u)" != 0 ] || { echo "the last user is root" && exit 1; }
size=$(du -sxh --exclude="$root/proc" "$root" | cut -f1)
echo "every step of the Dockerfile ran as written, in $((SECONDS - started)) s; $size; the default command ran as user $(inside id -un)"
