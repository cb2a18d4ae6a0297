# Instead of redis:*-alpine: version 7.0 of Debian bookworm.
FROM localhost/debian:bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server redis-tools \
    && apt-get clean && rm -rf /var/lib/apt/lists/* && install -d -o redis -g redis /data
VOLUME /data
