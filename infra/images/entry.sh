#!/bin/sh
# Run a command with its secrets in its environment: NAME_FILE=/run/secrets/x becomes NAME=<content of that file>.
#
# Not in its arguments, which every process on the machine may read. Health checks start here as well, because Docker
# gives them the container's environment and not that of its command.
set -eu
for name in $(env | sed -n 's/^\([A-Z][A-Z0-9_]*\)_FILE=.*/\1/p'); do
  [ "$name" = AWS_SHARED_CREDENTIALS ] && continue # AWS's own name for a file that its clients read themselves
  eval "file=\$${name}_FILE"
  if ! [ -s "$file" ]; then
    echo "entry.sh: ${name}_FILE: there is no secret in $file; make them with infra/images/secrets.sh" >&2
    exit 78 # EX_CONFIG (sysexits.h)
  fi
  export "$name=$(cat "$file")"
  unset "${name}_FILE"
done
exec "$@"
