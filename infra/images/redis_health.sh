#!/bin/sh
# Healthy when a client with the password gets an answer at the address that clients use, and may write.
set -eu
url=$(cat "$REDIS_URL_FILE")
host=${url##*@}
host=${host%%/*}
credentials=${url#*://}
credentials=${credentials%%@*}
export REDISCLI_AUTH="${credentials#*:}"
[ "$(redis-cli -h "${host%:*}" -p "${host#*:}" --raw SET health 1 EX 60)" = OK ]
