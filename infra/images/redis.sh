#!/bin/sh
# Redis with the password of the URL that its clients use; it comes on standard input, not as an argument.
# Usage: redis.sh OPTION..., with REDIS_URL_FILE in the environment.
set -eu
url=$(cat "$REDIS_URL_FILE")
credentials=${url#*://}
credentials=${credentials%%@*}
exec redis-server - "$@" <<CONFIGURATION
requirepass ${credentials#*:}
CONFIGURATION
