#!/bin/sh
# Secrets come as files: NAME_FILE=/run/secrets/x becomes NAME. {REDIS_PASSWORD} and {POSTGRES_PASSWORD} in the URLs are
# filled in here, so that neither the composition nor `docker inspect` shows one. They go into URLs as they are: no
# password may hold any of : / @ ? # %.
set -eu

fill() { # the text $1 with the mark $2 replaced by $3
    case $1 in
    *"$2"*) printf '%s%s%s' "${1%%"$2"*}" "$3" "${1#*"$2"}" ;;
    *) printf '%s' "$1" ;;
    esac
}

for name in $(env | sed -n 's|^\([A-Z_]*\)_FILE=/run/secrets/.*|\1|p'); do
    eval "file=\$${name}_FILE"
    if [ -s "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
    unset "${name}_FILE"
done

if [ -n "${REDIS_URL:-}" ]; then
    REDIS_URL=$(fill "$REDIS_URL" "{REDIS_PASSWORD}" "${REDIS_PASSWORD:-}")
fi
if [ -n "${DATABASE_URL:-}" ]; then
    DATABASE_URL=$(fill "$DATABASE_URL" "{POSTGRES_PASSWORD}" "${POSTGRES_PASSWORD:-}")
fi
if [ -n "${FLOWER_PASSWORD:-}" ]; then
    export FLOWER_BASIC_AUTH="paymaster:$FLOWER_PASSWORD"
fi
unset REDIS_PASSWORD POSTGRES_PASSWORD FLOWER_PASSWORD
exec "$@"
