#!/bin/sh
# Turns the tree in the current folder into what the other stages of an image copy, under /built:
#   wheels/           mlserve and the plugin of the backend $1
#   requirements.txt  their third-party requirements
#   exporting/        the code that exports, and no more of it
#   exporting.txt     the third-party requirements of an export
# A builder compares the contents of what is copied: a change of the server or the client leaves
# exporting/ as it was, and the exported model with it.
set -eu
backend=$1

pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /built/wheels . "plugins/$backend"
python docker/common/requirements.py "mlserve-${backend}[serve]" > /built/requirements.txt

pip install --quiet --no-deps --no-build-isolation --no-compile --target /built/exporting \
    /built/wheels/*.whl ./plugins/models
python docker/common/requirements.py "mlserve-${backend}[export]" > /built/exporting.txt
cd /built/exporting
# What `mlserve export` never imports. Of the launchers it needs one module: their names, for the
# command line.
rm -rf mlserve/client mlserve/compare mlserve/server mlserve/testing
find mlserve/launch -type f ! -name __init__.py ! -name serving.py -delete
# RECORD and direct_url.json have digests of what is gone from here, METADATA the README.
rm -rf bin ./*.dist-info/RECORD ./*.dist-info/direct_url.json
sed -i '/^$/,$d' ./*.dist-info/METADATA
