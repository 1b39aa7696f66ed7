#!/bin/sh
# Make the secret files that docker-compose.yml mounts: infra/images/secrets.sh [FOLDER], `secrets` by default.
#
# The folder is open to its owner only (0700). The files in it can be read by whoever gets that far (0444): Compose mounts
# them one by one with the host's owner and mode, and the containers run as other users than you.
set -eu
umask 077
folder=${1:-secrets}
redis_host=${REDIS_HOST:-redis:6379}  # as the containers reach it

if [ -e "$folder" ]; then
  echo "secrets.sh: $folder is there already, and what was started with it goes on needing it; remove it to begin anew" >&2
  exit 1
fi
mkdir -p "$folder"
echo '*' >"$folder/.gitignore" # and that itself

random() {
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

write() { # NAME: the secret on standard input, without an end of line
  cat >"$folder/$1"
  chmod 444 "$folder/$1"
}

for name in postgres_password postgres_prefect_password postgres_mlflow_password mlflow_password mlflow_secret_key \
  ray_token; do
  random | write "$name"
done
printf 'tokenmill:%s' "$(random)" | write prefect_auth
printf 'redis://default:%s@%s/0' "$(random)" "$redis_host" | write redis_url

s3_key=$(random)
printf '[default]\naws_access_key_id = tokenmill\naws_secret_access_key = %s\n' "$s3_key" | write s3_credentials
printf '{"identities": [{"name": "tokenmill", "credentials": [{"accessKey": "tokenmill", "secretKey": "%s"}], %s}]}\n' \
  "$s3_key" '"actions": ["Admin", "Read", "Write", "List", "Tagging"]' | write s3_identities.json

echo "Prefect's page asks for:  $folder/prefect_auth"
echo "MLflow's page asks for:   tokenmill and $folder/mlflow_password"
