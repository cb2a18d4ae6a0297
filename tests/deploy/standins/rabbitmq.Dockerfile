# Instead of rabbitmq:*-management-alpine: version 4.0.5 of Debian trixie, started as that image starts it.
FROM localhost/debian:trixie
RUN apt-get update && apt-get install --yes --no-install-recommends rabbitmq-server \
    && apt-get clean && rm -rf /var/lib/apt/lists/* && mkdir -p /etc/rabbitmq/conf.d
ENV PATH=/usr/lib/rabbitmq/bin:$PATH RABBITMQ_LOGS=-
CMD ["rabbitmq-server"]
