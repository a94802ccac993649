#!/usr/bin/env bash
# Builds the Debian package and a tarball. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags
# shellcheck source=packaging/lib/packages.sh
. packaging/lib/packages.sh # install_packages

usage() {
  cat <<'EOF'
usage: packaging/build-deb.sh [--binaries DIR] [--revision TEXT] [--output DIR] [--fast]

Builds sidelockd and sidelock with the Swift library linked in, and packs them with units, man pages, shell
completions and the journal's catalogue into DIR/sidelock_VERSION-REVISION_ARCH.deb and
DIR/sidelock-VERSION-linux-ARCH.tar.xz. The version is what the daemon says; SOURCE_DATE_EPOCH is respected.

  --binaries DIR    pack sidelockd and sidelock from there instead of building them
  --revision TEXT   the Debian revision (default: 1)
  --output DIR      where to write (default: the current directory)
  --fast            compress little
  --help            this text
EOF
}

binaries="" revision=1 output=$PWD level=6
while [ $# -gt 0 ]; do
  case "$1" in
    --binaries) binaries=${2:?} ;;
    --revision) revision=${2:?} ;;
    --output) output=${2:?} ;;
    --fast)
      level=0
      shift
      continue
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$output"
output=$(readlink -f "$output")

install_packages binutils dpkg-dev python3 xz-utils
if [ -z "$binaries" ]; then
  for product in sidelockd sidelock; do swift build "${release_flags[@]}" --product "$product"; done
  binaries=$(swift build "${release_flags[@]}" --show-bin-path)
fi
binaries=$(readlink -f "$binaries")
upstream=$("$binaries/sidelockd" --version)
version=$upstream-$revision
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
maintainer="sidelock maintainers <maintainers@sidelock.example>"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

# place MODE SOURCE TARGET copies a file into the tree.
place() {
  install -D -m "$1" "$2" "$tree/$3"
  printf '%s\t%s\n' "$2" "$3" >>"$work/placed"
}

# program SOURCE TARGET copies a program, stripped, and refuses one that was linked in another way than ours are.
program() {
  place 755 "$1" "$2"
  strip --strip-all --remove-section=.comment --remove-section=.note "$tree/$2"
  local dynamic
  dynamic=$(readelf -d "$tree/$2")
  if grep -E 'RUNPATH|RPATH' <<<"$dynamic"; then
    echo "build-deb: $1 has a search path for libraries" >&2
    return 1
  fi
  if ! grep -qE 'BIND_NOW|FLAGS_1.*NOW' <<<"$dynamic"; then
    echo "build-deb: $1 binds its symbols late" >&2
    return 1
  fi
  if grep -E 'NEEDED.*(libswift|Foundation)' <<<"$dynamic"; then
    echo "build-deb: $1 needs the Swift library" >&2
    return 1
  fi
}

program "$binaries/sidelockd" usr/sbin/sidelockd
program "$binaries/sidelock" usr/bin/sidelock
place 644 packaging/systemd/sidelockd.service lib/systemd/system/sidelockd.service
place 644 packaging/systemd/sidelock-exporter.service lib/systemd/system/sidelock-exporter.service
place 644 packaging/systemd/sidelockd.socket lib/systemd/system/sidelockd.socket
place 644 packaging/systemd/sidelock.sysusers usr/lib/sysusers.d/sidelock.conf
place 644 packaging/systemd/sidelock.catalog usr/lib/systemd/catalog/sidelock.catalog
place 644 packaging/sidelockd.yaml etc/sidelock/sidelockd.yaml
for file in packaging/systemd/examples/*; do place 644 "$file" "usr/share/doc/sidelock/examples/${file##*/}"; done
for file in packaging/monitoring/*; do place 644 "$file" "usr/share/doc/sidelock/examples/monitoring/${file##*/}"; done
place 644 packaging/settings.md usr/share/doc/sidelock/settings.md
place 644 README.md usr/share/doc/sidelock/README.md
place 644 packaging/operations.md usr/share/doc/sidelock/operations.md
for file in packaging/pictures/*; do place 644 "$file" "usr/share/doc/sidelock/pictures/${file##*/}"; done
place 644 packaging/NEWS.md usr/share/doc/sidelock/NEWS.md
for file in protocol/README.md protocol/formats.md protocol/guarantees.md protocol/security.md protocol/openrpc.json protocol/errors.json; do
  place 644 "$file" "usr/share/doc/sidelock/$file"
done
while IFS= read -r -d '' file; do
  place 644 "$file" "usr/share/doc/sidelock/examples/${file#protocol/}"
done < <(find protocol/clients protocol/conformance -type f -not -path '*/__pycache__/*' -print0 | sort -z)
python3 packaging/lib/links.py . "$tree" "$work/placed"

day=$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)
python3 packaging/lib/manpages.py "$binaries/sidelockd" "$binaries/sidelock" "$work/man" "$day"
for page in "$work/man"/*; do
  gzip -9n "$page"
  place 644 "$page.gz" "usr/share/man/man${page##*.}/${page##*/}.gz"
done

mkdir "$work/completions"
for name in sidelock sidelockd; do
  for shell in bash zsh fish; do
    "$binaries/$name" --generate-completion-script "$shell" >"$work/completions/$name.$shell"
  done
  if [ "$name" = sidelock ]; then cat packaging/lib/sidelock.bash >>"$work/completions/$name.bash"; fi
  # It is read by a shell, and not run.
  sed -i '1{/^#!/d}' "$work/completions/$name.bash"
  place 644 "$work/completions/$name.bash" "usr/share/bash-completion/completions/$name"
  place 644 "$work/completions/$name.zsh" "usr/share/zsh/vendor-completions/_$name"
  place 644 "$work/completions/$name.fish" "usr/share/fish/vendor_completions.d/$name.fish"
done

find "$tree" -type d -exec chmod 755 {} +
tarball=$output/sidelock-$upstream-linux-$architecture.tar.xz
XZ_OPT="-$level -T0" tar --create --xz --file "$tarball" --directory "$tree" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
  --numeric-owner --transform "s,^\.,sidelock-$upstream," .

place 644 packaging/debian/copyright usr/share/doc/sidelock/copyright
python3 packaging/lib/changelog.py "$upstream" "$revision" "$maintainer" "$SOURCE_DATE_EPOCH" >"$work/changelog.Debian"
gzip -9n "$work/changelog.Debian"
place 644 "$work/changelog.Debian.gz" usr/share/doc/sidelock/changelog.Debian.gz

mkdir "$tree/DEBIAN" "$work/debian"
for script in postinst prerm postrm; do install -m 755 "packaging/debian/$script" "$tree/DEBIAN/$script"; done
echo /etc/sidelock/sidelockd.yaml >"$tree/DEBIAN/conffiles"
# dpkg-shlibdeps wants a source package around it.
printf 'Source: sidelock\n\nPackage: sidelock\nArchitecture: any\n' >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O "$tree/usr/sbin/sidelockd" "$tree/usr/bin/sidelock" 2>"$work/shlibs.log") || {
  cat "$work/shlibs.log" >&2
  exit 1
}
libraries=${libraries#shlibs:Depends=}
cat >"$tree/DEBIAN/control" <<EOF
Package: sidelock
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -k -s --exclude=DEBIAN "$tree" | cut -f1)
Depends: $libraries, init-system-helpers (>= 1.54~), systemd (>= 250)
Recommends: redis-server | valkey-server
Suggests: socat
Section: admin
Priority: optional
Description: locks for the processes of a host, shared with others through Redis
 The daemon runs once on each host. Programs in any language connect to its Unix
 socket and ask for locks in JSON, one message a line. A lock belongs to a
 connection and is free as soon as that ends; every grant carries a fencing
 token; nobody polls, and the daemon renews leases for its clients.
 .
 Without Redis it gives locks among the processes of one host.
EOF
(cd "$tree" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z | xargs -0 md5sum) \
  >"$tree/DEBIAN/md5sums"
chmod 644 "$tree/DEBIAN/conffiles" "$tree/DEBIAN/control" "$tree/DEBIAN/md5sums"
find "$tree" -type d -exec chmod 755 {} +
package=$output/sidelock_${version}_$architecture.deb
find "$tree" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz -z"$level" --build "$tree" "$package" >/dev/null
echo "$package"
echo "$tarball"
