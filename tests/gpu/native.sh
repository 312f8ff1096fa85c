#!/bin/sh
# Run the native programs of a GPU build, then again under compute-sanitizer's memory and race
# checkers; say so where those do not work on this machine.
#
#   native.sh TREE
set -u
tree=$1
seconds=${SANITIZER_SECONDS:-40} # for each program under each checker
jobs=8                           # programs at once
logs=$tree/logs
rm -rf "$logs" && mkdir -p "$logs"

# run NAME SECONDS COMMAND...: the last line of the log is the exit status.
run() {
  log=$logs/$1.log
  limit=$2
  shift 2
  timeout "$limit" "$@" >"$log" 2>&1
  echo "status $?" >>"$log"
}

# each CHECKER SECONDS COMMAND...: the command with every program.
each() {
  name=$1
  limit=$2
  shift 2
  count=0
  for program in "$tree"/test_cuda_*; do
    [ -x "$program" ] || continue
    run "$name-${program##*/}" "$limit" "$@" "$program" &
    count=$((count + 1))
    [ $((count % jobs)) -ne 0 ] || wait
  done
  wait
  [ "$count" -gt 0 ] || { echo "*** no native programs in $tree"; exit 1; }
}

failed=0
# report CHECKER: one line for each program, and the whole log of one that failed.
report() {
  for log in "$logs/$1"-*.log; do
    name=$(basename "$log" .log)
    status=$(tail -n 1 "$log")
    if [ "$status" = "status 0" ]; then
      echo "ok      $name: $(grep -v "^status" "$log" | tail -n 1)"
    elif [ "$status" = "status 124" ] && [ "$1" != plain ]; then
      echo "*** NOT FINISHED in $seconds s: $name"
    elif [ "$1" != plain ] && grep -q "$no_checker" "$log"; then
      echo "*** NOT RUN: $name; compute-sanitizer does not work on this machine:"
      grep -m 1 "$no_checker" "$log"
    else
      failed=1
      echo "*** FAILED  $name ($status):"
      tail -n 60 "$log"
    fi
  done
}
no_checker="Device not supported\|Failed to initialize\|Unable to find injection"

each plain 200
report plain
[ "$failed" -eq 0 ] || exit 1

if ! command -v compute-sanitizer >/dev/null; then
  echo "*** NOT RUN: memory and race checkers; compute-sanitizer is not on the PATH"
  exit 0
fi
for tool in memcheck racecheck; do
  each "$tool" "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 9
  report "$tool"
done
exit $failed
