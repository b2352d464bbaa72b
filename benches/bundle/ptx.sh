#!/usr/bin/env bash
# Fails where a file carries PTX that driver 580 (CUDA 13.0) does not take, or none: ptx.sh FILE..
set -euo pipefail
newest=9.0
for file in "$@"; do
    found=$(grep --text --only-matching --extended-regexp '^\.version [0-9]+\.[0-9]+' "$file" | cut -d' ' -f2 | sort -Vu | tail -1 || true)
    if [[ -z $found ]]; then
        echo "error: $file carries no PTX: set CUDA_PATH or VIRTUAL_ENV to where NVRTC is, and build again" >&2
        exit 1
    fi
    if [[ $(printf '%s\n' "$found" "$newest" | sort -V | tail -1) != "$newest" ]]; then
        echo "error: $file carries PTX $found, and driver 580 takes $newest at most: build with the NVRTC of CUDA 13.0" \
            "(pip install nvidia-cuda-nvrtc==13.0.88)" >&2
        exit 1
    fi
done
