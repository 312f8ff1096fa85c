#!/bin/sh
# Check what cannot come from pip, and name everything that is missing at once.
#
#   cmake/check_tools.sh PYTHON
set -u

python=$1
problems=""
problem() { problems="$problems  - $1
      $2
"; }

if ! command -v "$python" >/dev/null 2>&1; then
  problem "there is no '$python'" \
    "install Python 3.11 or later, or name one: make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  problem "'$python' is $("$python" --version 2>&1), 3.11 or later is needed" \
    "name a newer one: make PYTHON=python3.12"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  problem "'$python' has no venv module" \
    "install it (Debian, Ubuntu: the package python3-venv)"
fi
for tool in "${CC:-cc}" "${CXX:-c++}"; do
  # CC and CXX may hold options after the command.
  command -v "${tool%% *}" >/dev/null 2>&1 || problem "there is no compiler '${tool%% *}'" \
    "install one (Debian, Ubuntu: the package g++), or set CC and CXX"
done

if [ -n "$problems" ]; then
  printf 'switch-export cannot be built here:\n%s' "$problems" >&2
  exit 1
fi
