#!/bin/sh
# Stands in for Nsight Compute: prints rows of raw.txt for the points that it is to replay.
here=$(dirname "$0")
case "$1" in
--version)
  echo "NVIDIA (R) Nsight Compute Command Line Profiler"
  echo "Version 2025.3.1.0 (build 36398880) (public-release)"
  exit 0 ;;
--query-metrics) exit 0 ;;
esac
echo "$@" >> "$here/calls"
case "$(cat "$here/mode")" in
refuse)
  echo "==PROF== Connected to process 1 (ridgepoint)"
  echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the target device 0."
  exit 1 ;;
hang) sleep 600 ;;
no_gpu)
  echo "ridgepoint: no GPU can be used: no driver" >&2
  echo "==ERROR== The application returned an error code (1)."
  echo "==WARNING== No kernels were profiled."
  exit 1 ;;
esac
[ "$RIDGEPOINT_NO_HOLD" = 1 ] || exit 7
echo "==PROF== Connected to process 1 (ridgepoint)"
index=0
rows=
for word in "$@"; do
  case "$word" in *@*@*)
    # The row's number stands before its problem and kernel in the list.
    at=$(awk -F'	' -v p="${word%@*}" '$2 == p { print $1 }' "$here/list")
    if [ -n "$at" ]; then
      echo "replay $index done 639730182935"
      row=$(grep '^"[0-9]' "$here/raw.txt" | sed -n "$((at + 1))p")
      rows="$rows$row
$row
"
    else
      echo "replay $index failed there is no row of it"
    fi
    index=$((index + 1)) ;;
  esac
done
echo "==PROF== Disconnected from process 1"
grep -A1 '^"ID"' "$here/raw.txt"
printf '%s' "$rows"
