# Instead of python:*-slim-bookworm: Debian's own Python, which is of the same minor version.
FROM localhost/debian:bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
    && apt-get clean && rm -rf /var/lib/apt/lists/* && ln -s /usr/bin/python3 /usr/local/bin/python
