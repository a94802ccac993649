#!/usr/bin/env bash
# A real systemd as process 1 of namespaces of its own, on a host whose own process 1 may be anything.
#
#   systemd-host.sh up DIR [SOURCE:TARGET…]   start it; DIR (absolute) holds its state; each SOURCE is seen at TARGET,
#                                             read-only
#   systemd-host.sh exec DIR COMMAND…         run a command in it
#   systemd-host.sh down DIR                  end it, and all that runs in it
#
# Its root is an overlay of the host's: the same programs, and nothing written to the host. Needs root, overlayfs and a
# cgroup2 mount; exits with 77 where it cannot run.
set -euo pipefail
self=$(readlink -f "$0")

# After so long the kernel ends an instance that nobody has ended.
lifetime_seconds=3600
# How long systemd may take to start, in twentieths of a second.
boot_ticks_max=3600

refuse() {
  echo "systemd-host: $*" >&2
  exit 77
}

# The process that `unshare` of this directory's instance became or started, two generations down: process 1.
find_init() {
  local parent child
  parent=$(cat "$1/outer")
  for _ in 1 2; do
    child=$(cat "/proc/$parent/task/$parent/children" 2>/dev/null) || return 1
    parent=${child%% *}
    [ -n "$parent" ] || return 1
  done
  [ "$(cat "/proc/$parent/comm" 2>/dev/null)" = systemd ] && echo "$parent"
}

up() {
  local directory=$1 cgroups cgroup init tick
  shift
  [ "$(id -u)" = 0 ] || refuse "not root"
  [ -x /lib/systemd/systemd ] || refuse "systemd is not installed"
  grep -qw overlay /proc/filesystems || refuse "no overlayfs"
  cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -n "$cgroups" ] || refuse "no cgroup2 mount"
  cgroup=$cgroups/sidelock-test-$$
  mkdir "$cgroup" || refuse "cannot make a control group"
  mkdir -p "$directory/tree"
  echo "$cgroup" >"$directory/cgroup"
  setsid timeout -s KILL "$lifetime_seconds" \
    unshare --mount --pid --fork --kill-child=KILL --uts --ipc --net \
    bash "$self" enter-cgroup "$directory" "$@" </dev/null >"$directory/boot.log" 2>&1 &
  echo $! >"$directory/outer"
  disown
  for ((tick = 0; tick < boot_ticks_max; tick++)); do
    if init=$(find_init "$directory"); then
      echo "$init" >"$directory/init"
      case $(inside "$directory" systemctl is-system-running 2>/dev/null) in
        running | degraded) return 0 ;;
      esac
    elif ! kill -0 "$(cat "$directory/outer")" 2>/dev/null; then
      break
    fi
    sleep 0.05
  done
  cat "$directory/boot.log" >&2
  down "$directory"
  refuse "systemd did not start"
}

# Before anything else the new process 1 joins a control group and makes it the root of what it sees: systemd takes
# over the control groups that it finds, and must not find the host's.
enter_cgroup() {
  echo 0 >"$(cat "$1/cgroup")/cgroup.procs"
  cd /
  exec unshare --cgroup bash "$self" boot "$@"
}

# Lays out the root file system and becomes systemd.
boot() {
  local directory=$1 tree=$1/tree bind source target unit
  shift
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 sidelock-test "$tree"
  mkdir "$tree/upper" "$tree/work" "$tree/root"
  mount -t overlay -o "lowerdir=/,upperdir=$tree/upper,workdir=$tree/work" sidelock-test "$tree/root"
  cd "$tree/root"
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount -t tmpfs -o mode=755 tmpfs run
  # The host's own units must not start a second time.
  mount -t tmpfs -o mode=755 tmpfs etc/systemd/system
  for bind in "$@"; do
    source=${bind%%:*}
    target=.${bind#*:}
    if [ -d "$source" ]; then
      mkdir -p "$target"
    else
      mkdir -p "$(dirname "$target")"
      touch "$target"
    fi
    mount --bind "$source" "$target"
    mount -o remount,bind,ro "$target"
  done
  mount -t proc proc proc
  mount --bind proc/sys proc/sys
  mount -o remount,bind,ro proc/sys
  mount -t sysfs -o ro sysfs sys
  mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755,nosuid tmpfs dev
  cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s /proc/self/fd/0 dev/stdin
  ln -s /proc/self/fd/1 dev/stdout
  ln -s /proc/self/fd/2 dev/stderr
  # Units that are about a machine, which this is not.
  for unit in systemd-{sysctl,modules-load,binfmt,remount-fs,networkd,resolved,timesyncd,logind}.service \
    systemd-{update-utmp,random-seed,ask-password-console,firstboot}.service \
    systemd-journald-audit.socket systemd-initctl.socket systemd-ask-password-console.path \
    systemd-tmpfiles-clean.timer dev-hugepages.mount dev-mqueue.mount sys-kernel-{debug,tracing,config}.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount; do
    ln -s /dev/null "etc/systemd/system/$unit"
  done
  mkdir -p etc/systemd/journald.conf.d
  printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRuntimeMaxUse=16M\n' \
    >etc/systemd/journald.conf.d/sidelock-test.conf
  mkdir .host
  pivot_root . .host
  cd /
  umount -l /.host
  rmdir /.host
  mount --make-rshared /
  exec env -i container=sidelock-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --system --unit=basic.target
}

inside() {
  local directory=$1
  shift
  nsenter --target "$(cat "$directory/init")" --mount --pid --cgroup --uts --ipc --net --root --wd -- "$@"
}

down() {
  local directory=$1 cgroup tick
  # The end of a process 1 is the end of all processes of its namespace. The group is for one that never got so far.
  if [ -s "$directory/init" ]; then kill -KILL "$(cat "$directory/init")" 2>/dev/null || true; fi
  if [ -s "$directory/outer" ]; then kill -KILL -- "-$(cat "$directory/outer")" 2>/dev/null || true; fi
  cgroup=$(cat "$directory/cgroup")
  for ((tick = 0; tick < 3000; tick++)); do
    [ -d "$cgroup" ] || break
    find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    sleep 0.02
  done
  rm -rf "$directory/tree" "$directory/init" "$directory/outer" "$directory/cgroup"
  if [ -d "$cgroup" ]; then
    echo "systemd-host: left over: $cgroup" >&2
    return 1
  fi
}

command=${1-}
shift || true
case "$command" in
  up) up "$@" ;;
  exec) inside "$@" ;;
  down) down "$@" ;;
  enter-cgroup) enter_cgroup "$@" ;;
  boot) boot "$@" ;;
  *)
    sed -n '2,10p' "$self" >&2
    exit 2
    ;;
esac
