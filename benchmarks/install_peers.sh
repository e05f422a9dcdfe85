#!/bin/sh
# Install the peers that Clarion is measured beside: nginx with the nchan module, from the distribution's packages.
#
# It may be run any number of times, and never fails: what is missing is then missing in the table, and this says why.
# The packages' own nginx service is not needed; the benchmark starts an nginx of its own.
set -u

PACKAGES="nginx-light libnginx-mod-nchan"

present() {
    (PATH="$PATH:/usr/sbin" command -v nginx >/dev/null 2>&1) && ls /usr/lib*/nginx/modules/ngx_nchan_module.so >/dev/null 2>&1
}

give_up() {
    echo "Peers: $1; nchan will be missing in the table."
    exit 0
}

if present; then
    echo "Peers: nginx with nchan is installed."
    exit 0
fi
command -v apt-get >/dev/null 2>&1 || give_up "there is no apt-get here, and nchan is only known from Debian's packages"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    give_up "installing needs root (run: sudo apt-get install $PACKAGES)"
fi

# A service that packages start is refused, where this machine lets that be said and does not say it already.
policy=/usr/sbin/policy-rc.d
written=""
if [ -z "$as_root" ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && written=1
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # both are lists of words
if { $as_root apt-get update && $as_root apt-get install -y --no-install-recommends $PACKAGES; } >"$log" 2>&1; then
    done=1
else
    done=""
fi
[ -n "$written" ] && rm -f "$policy"
if [ -n "$done" ] && present; then
    rm -f "$log"
    echo "Peers: installed $PACKAGES."
    exit 0
fi
tail -n 5 "$log"
rm -f "$log"
give_up "apt-get could not install $PACKAGES"
