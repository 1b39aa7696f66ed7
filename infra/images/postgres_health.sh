#!/bin/sh
# Healthy when both clients get in with their passwords at the address that they use. Usage: postgres_health.sh HOST PORT
set -eu
select() { # ROLE PASSWORD_FILE: each role has the database of its name
  PGPASSWORD=$(cat "$2") psql --no-psqlrc --quiet --no-password --host "$host" --port "$port" --username "$1" \
    --dbname "$1" --command 'SELECT 1' >/dev/null
}
host=$1 port=$2
select prefect "$POSTGRES_PREFECT_PASSWORD_FILE"
select mlflow "$POSTGRES_MLFLOW_PASSWORD_FILE"
