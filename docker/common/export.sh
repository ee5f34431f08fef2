#!/bin/sh
# Exports the model of the build arguments to /store; the current folder holds the user's weights.
set -eu
if [ -n "$WEIGHTS" ]; then
    set -- --weights "$WEIGHTS"
fi
# EXPORT_OPTIONS is a list of words.
# shellcheck disable=SC2086
PYTHONPATH=/exporting python -m mlserve export --backend "$BACKEND" --model "$MODEL" \
    --version "$MODEL_VERSION" --store /store "$@" $EXPORT_OPTIONS
chmod -R a+rX /store
