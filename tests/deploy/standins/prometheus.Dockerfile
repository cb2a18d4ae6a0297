# Instead of prom/prometheus: version 2.42 of Debian bookworm, with the program its health check asks for.
FROM localhost/debian:bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus wget \
    && apt-get clean && rm -rf /var/lib/apt/lists/* && install -d -o nobody -g nogroup /prometheus
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
