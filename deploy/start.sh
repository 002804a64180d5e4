#!/bin/sh
# The entry point of the image. numba reads its compiled loops only from a folder that it could write to, and the image's own
# root is read-only; so they are copied (2 MB) to /tmp before `pointsman` takes this process over, and SIGTERM with it.
set -e
cp -R /opt/pointsman/numba /tmp/
exec pointsman "$@"
