#!/bin/sh
# Make the secrets that docker-compose.yml wants: random passwords, and the providers' keys from the environment.
# What is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in redis_password postgres_password flower_password grafana_password metrics_token; do
    [ -s "secrets/$name" ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "secrets/$name"
done
# who may use the API, a line each: Prometheus may read; `paymaster api-token` makes others
[ -s secrets/api_tokens ] ||
    printf 'prometheus:read:%s\n' "$(sha256sum < secrets/metrics_token | cut -d ' ' -f 1)" > secrets/api_tokens
[ -s secrets/openai_api_key ] || printf '%s' "${OPENAI_API_KEY:-}" > secrets/openai_api_key
[ -s secrets/anthropic_api_key ] || printf '%s' "${ANTHROPIC_API_KEY:-}" > secrets/anthropic_api_key
# containers run under other users, and compose mounts the files as they are; on the host the folder is closed
chmod 644 secrets/*
chmod 700 secrets
