#!/bin/sh
# Chromium for tests/browser: installed where that is allowed, else said to be missing.
for browser in chromium chromium-browser google-chrome; do command -v "$browser" >/dev/null && exit 0; done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo 'Installing Chromium for the browser tests'
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo 'NO BROWSER: the tests of the explorer and the report in a browser will be skipped; install chromium (Debian: apt-get install chromium)' >&2
