#!/bin/sh
# Installs the database servers that the tests start privately: PostgreSQL and MariaDB from Debian's packages.
# No service is started: for the time of the installation a policy says so, as in a container image.
set -eu

have() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1
}

missing=
have postgres || missing="$missing postgresql"
have mariadbd || missing="$missing mariadb-server"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "these packages are missing:$missing; installing them needs root and apt-get" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM
fi
echo "installing$missing, without starting them" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # One word per package is meant.
apt-get install -y -qq --no-install-recommends $missing >/dev/null
