#!/bin/sh
# Find or obtain ONNX Runtime's C headers and print the folder that holds onnxruntime_c_api.h.
#
#   cmake/onnxruntime_headers.sh [build folder, default: build]
#
# Only the headers are needed to build; the library is opened at run time. In this order:
#   1. ONNXRUNTIME_INCLUDE_DIR: an include folder, or an unpacked release archive of ONNX Runtime
#   2. the system's package libonnxruntime-dev
#   3. what an earlier run left in <build folder>/onnxruntime-headers
#   4. Debian 12 and later, Ubuntu 25.04 and later: that same package, unpacked into the build folder. It comes
#      through the package source that this system is configured with, its signature is checked with the
#      system's keyring, apt's lists and state are private, and no root is needed. Debian 12 has no such
#      package of its own and takes Debian 13's: headers do not depend on the release.
set -eu

build=${1:-build}
unpacked=$build/onnxruntime-headers
minimum=21  # ORT_API_VERSION the runtime is compiled against: ONNX Runtime 1.21

fail() {
  printf 'ONNX Runtime headers: %s\n' "$1" >&2
  cat >&2 <<WAYS
Three ways to provide them (onnxruntime_c_api.h, ONNX Runtime 1.$minimum or later):
  - install the package libonnxruntime-dev (Debian 13, Ubuntu 25.04 and later)
  - on Debian 12: connect to the network, so that this package can be taken from Debian 13
  - unpack a release archive of ONNX Runtime, from its releases page, and set
    ONNXRUNTIME_INCLUDE_DIR to the unpacked folder
WAYS
  exit 1
}

# Print the folder under $1 that holds the header, whatever the layout; nothing if there is none.
header_folder() {
  for below in . include include/onnxruntime include/onnxruntime/core/session onnxruntime/core/session \
               onnxruntime usr/include/onnxruntime usr/include/onnxruntime/core/session; do
    if [ -f "$1/$below/onnxruntime_c_api.h" ]; then
      (cd "$1/$below" && pwd)
      return
    fi
  done
}

api_version() {
  sed -n 's/^#define ORT_API_VERSION \([0-9]*\).*/\1/p' "$1/onnxruntime_c_api.h"
}

# Print folder $1 and stop, if its headers are new enough; $2 says where they are from.
accept() {
  version=$(api_version "$1")
  if [ "${version:-0}" -ge "$minimum" ]; then
    printf '%s\n' "$1"
    exit 0
  fi
  fail "$2 has ORT_API_VERSION ${version:-unknown} in $1, $minimum or later is needed"
}

if [ -n "${ONNXRUNTIME_INCLUDE_DIR:-}" ]; then
  found=$(header_folder "$ONNXRUNTIME_INCLUDE_DIR")
  [ -n "$found" ] || fail "ONNXRUNTIME_INCLUDE_DIR is '$ONNXRUNTIME_INCLUDE_DIR', without onnxruntime_c_api.h in it"
  accept "$found" "ONNXRUNTIME_INCLUDE_DIR"
fi

for prefix in /usr /usr/local; do
  found=$(header_folder "$prefix")
  # An old system copy is passed over: a newer one may still be obtained.
  if [ -n "$found" ] && [ "$(api_version "$found")" -ge "$minimum" ]; then
    accept "$found" "the system"
  fi
done

found=$(header_folder "$unpacked")
[ -z "$found" ] || accept "$found" "an earlier download"

# --- Debian and Ubuntu: the package, without installing it ---
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -r /etc/os-release ] ||
  fail "not installed, and this system has no apt to take them with"
. /etc/os-release
case "${ID:-}-${VERSION_ID:-}" in
  debian-12) suite=trixie component=main ;;
  debian-[0-9] | debian-1[01] | ubuntu-1?.* | ubuntu-2[0-4].*)
    fail "not installed, and ${PRETTY_NAME:-this system} is too old to have them" ;;
  debian-*) suite=$VERSION_CODENAME component=main ;;
  ubuntu-*) suite=$VERSION_CODENAME component=universe ;;
  *) fail "not installed, and ${PRETTY_NAME:-this system} is neither Debian nor Ubuntu" ;;
esac
mkdir -p "$build"
folder=$(mktemp -d "$(cd "$build" && pwd)/onnxruntime-apt.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
. "$(dirname "$0")/private_apt.sh"
open_private_apt "$folder" "$suite" "$component"

printf 'ONNX Runtime headers: taking libonnxruntime-dev of %s from the package source\n' "$suite" >&2
if ! { private_apt update && (cd "$folder" && private_apt download libonnxruntime-dev) &&
       dpkg-deb -x "$folder"/libonnxruntime-dev_*.deb "$folder/unpacked"; }; then
  cat "$folder/log" >&2
  fail "the package source did not deliver libonnxruntime-dev of $suite (apt's messages are above)"
fi
found=$(header_folder "$folder/unpacked")
[ -n "$found" ] || fail "libonnxruntime-dev of $suite does not hold onnxruntime_c_api.h"

# Renamed at the end, so that a run that was interrupted leaves nothing that looks complete.
rm -rf "$unpacked"
mv "$folder/unpacked" "$unpacked"
accept "$(header_folder "$unpacked")" "libonnxruntime-dev of $suite"
