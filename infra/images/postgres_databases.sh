#!/bin/sh
# First start of an empty PostgreSQL: a database and a role, which owns it, for Prefect and for MLflow each.
# The image's entry point runs this with POSTGRES_USER set; the passwords are read by psql, not passed as arguments.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set prefect `cat "$POSTGRES_PREFECT_PASSWORD_FILE"`
\set mlflow `cat "$POSTGRES_MLFLOW_PASSWORD_FILE"`
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow FROM PUBLIC;
SQL
