#!/usr/bin/env bash
# The units without running them: systemd finds nothing wrong with them, in every shape that the examples give them, and
# the sandbox is as tight as it should be.
set -euo pipefail
cd "$(dirname "$0")/../../packaging/systemd"
# The exposure that systemd-analyze may find, in tenths, for each shape.
shapes=(base:12 remote-redis:12 redis-tls:12 redis-credentials:12 redis-sentinel:12 redis-cluster:12 redis-unix-socket:5 show-programs:13 enforce-loss:15 notify-reload:12)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=no

# tree DIRECTORY SHAPE makes a root directory with the units in it.
tree() {
  mkdir -p "$1/usr/sbin" "$1/usr/bin" "$1/etc/systemd/system/sidelockd.service.d"
  mkdir -p "$1/usr/lib/systemd" "$1/usr/lib/sysusers.d"
  ln -s usr/bin "$1/bin"
  ln -s usr/lib "$1/lib"
  cp -a /lib/systemd/system "$1/usr/lib/systemd/"
  cp sidelockd.service sidelockd.socket "$1/usr/lib/systemd/system/"
  install -m 755 /dev/null "$1/usr/sbin/sidelockd"
  install -m 755 /dev/null "$1/usr/bin/kill"
  if [ "$2" != base ]; then cp "examples/$2.conf" "$1/etc/systemd/system/sidelockd.service.d/"; fi
}

for entry in "${shapes[@]}"; do
  shape=${entry%:*} limit=${entry#*:} root=$work/$shape
  tree "$root" "$shape"
  # Type=notify-reload is for a newer systemd than the one that may be here.
  if [ "$shape" != notify-reload ] || [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 253 ]; then
    words=$(systemd-analyze verify --root="$root" --man=no sidelockd.service sidelockd.socket 2>&1) || failed=yes
    if grep -i sidelock <<<"$words"; then failed=yes; fi
  fi
  if ! systemd-analyze security --offline=true --root="$root" --threshold="$limit" --no-pager sidelockd.service \
    >"$work/security" 2>&1; then
    cat "$work/security"
    failed=yes
  fi
  echo "$shape: $(tail -n 1 "$work/security"), limit $limit tenths"
done

root=$work/exporter
tree "$root" base
cp sidelock-exporter.service "$root/usr/lib/systemd/system/"
install -m 755 /dev/null "$root/usr/bin/sidelock"
words=$(systemd-analyze verify --root="$root" --man=no sidelock-exporter.service 2>&1) || failed=yes
if grep -i sidelock <<<"$words"; then failed=yes; fi
if ! systemd-analyze security --offline=true --root="$root" --threshold=12 --no-pager sidelock-exporter.service \
  >"$work/security" 2>&1; then
  cat "$work/security"
  failed=yes
fi
echo "exporter: $(tail -n 1 "$work/security"), limit 12 tenths"

mkdir -p "$work/user/usr/lib/systemd" "$work/units"
cp examples/user.service "$work/units/sidelockd.service"
cp examples/user.socket "$work/units/sidelockd.socket"
# A user's manager must know every setting in them; that the program is not installed here is no fault of theirs.
words=$(SYSTEMD_UNIT_PATH="$work/units:" systemd-analyze verify --user --man=no "$work/units"/sidelockd.* 2>&1) || true
if grep sidelockd <<<"$words" | grep -v 'is not executable'; then failed=yes; fi

systemd-sysusers --dry-run "$PWD/sidelock.sysusers" >/dev/null 2>&1 || failed=yes
mkdir -p "$work/catalogue/usr/lib/systemd/catalog" "$work/catalogue/var/lib/systemd/catalog"
cp sidelock.catalog "$work/catalogue/usr/lib/systemd/catalog/"
journalctl --root="$work/catalogue" --update-catalog || failed=yes
explained=$(grep -c '^-- [0-9a-f]' sidelock.catalog)
listed=$(journalctl --root="$work/catalogue" --list-catalog | wc -l)
echo "catalogue: $listed of $explained messages"
[ "$listed" = "$explained" ] || failed=yes
[ "$failed" = no ]
