#!/bin/sh
# Each project's files get a directory of their own.
set -e
cd /proj/experiments
install -d -o experiments -g experiments main
find . -maxdepth 1 -name '*.json' -exec mv -t main {} +
sync -f main
