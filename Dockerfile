# One image for every part: workers, beat, Flower, the API and the migration. Nothing is kept in it.
FROM python:3.12.8-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /venv
COPY requirements.lock .
# the lock holds what development needs, too: it is one lock for all, with a hash for every file
RUN /venv/bin/pip install --require-hashes -r requirements.lock
COPY . .
RUN /venv/bin/pip install --no-deps --no-build-isolation .

FROM python:3.12.8-slim-bookworm
RUN groupadd --gid 10001 paymaster && useradd --uid 10001 --gid 10001 --create-home paymaster \
    && install -d -o paymaster -g paymaster /var/lib/paymaster
COPY --from=build /venv /venv
COPY deploy/entrypoint.sh /usr/local/bin/paymaster-entrypoint
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PAYMASTER_HOME=/var/lib/paymaster LOG_FORMAT=json
USER paymaster
WORKDIR /var/lib/paymaster
ENTRYPOINT ["paymaster-entrypoint"]
CMD ["paymaster", "--help"]
