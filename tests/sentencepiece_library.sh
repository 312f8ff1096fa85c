#!/bin/sh
# Find or obtain SentencePiece's C++ library and print the prefix that holds include/sentencepiece_processor.h.
#
#   tests/sentencepiece_library.sh [build folder, default: build]
#
# Only examples/embed_cpp needs it. In this order: the system's package libsentencepiece-dev; what an earlier run left
# in <build folder>/sentencepiece; on Debian and Ubuntu that package of the system's own release, unpacked into the
# build folder with what it needs and the system lacks.
set -eu

build=${1:-build}
unpacked=$build/sentencepiece

fail() {
  printf 'SentencePiece: %s\nInstall the package libsentencepiece-dev (Debian, Ubuntu).\n' "$1" >&2
  exit 1
}

for prefix in /usr /usr/local "$unpacked/usr"; do
  if [ -f "$prefix/include/sentencepiece_processor.h" ]; then
    (cd "$prefix" && pwd)
    exit 0
  fi
done

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -r /etc/os-release ] ||
  fail "not installed, and this system has no apt to take it with"
. /etc/os-release
case "${ID:-}" in
  debian) components=main ;;
  ubuntu) components="main universe" ;;
  *) fail "not installed, and ${PRETTY_NAME:-this system} is neither Debian nor Ubuntu" ;;
esac

mkdir -p "$build"
folder=$(mktemp -d "$(cd "$build" && pwd)/sentencepiece-apt.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
. "$(dirname "$0")/../cmake/private_apt.sh"
open_private_apt "$folder" "$VERSION_CODENAME" "$components"
cp /var/lib/dpkg/status "$folder/status"  # so that what is installed is not taken again

printf 'SentencePiece: taking libsentencepiece-dev from the package source\n' >&2
if ! { private_apt update &&
       private_apt -y -o Debug::NoLocking=1 --download-only --no-install-recommends install libsentencepiece-dev; }; then
  cat "$folder/log" >&2
  fail "the package source did not deliver libsentencepiece-dev (apt's messages are above)"
fi
for package in "$folder"/cache/archives/*.deb; do
  dpkg-deb -x "$package" "$folder/unpacked"
done
[ -f "$folder/unpacked/usr/include/sentencepiece_processor.h" ] ||
  fail "libsentencepiece-dev does not hold sentencepiece_processor.h"

# Renamed at the end, so that a run that was interrupted leaves nothing that looks complete. Of two runs at once the
# second finds what the first has left.
mv -T "$folder/unpacked" "$unpacked" 2>/dev/null || [ -f "$unpacked/usr/include/sentencepiece_processor.h" ] ||
  fail "$unpacked is in the way; remove it"
(cd "$unpacked/usr" && pwd)
