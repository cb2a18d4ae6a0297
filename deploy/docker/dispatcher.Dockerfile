# syntax=docker/dockerfile:1
# The dispatcher: FastAPI, the catalogue and the clients of RabbitMQ and Redis. No torch, no runtimes' libraries.
#
# Build from the root of the repository: docker build -f deploy/docker/dispatcher.Dockerfile .

FROM python:3.11.15-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_REQUIRE_VIRTUALENV=1
RUN python -m venv /opt/affinity
ENV PATH=/opt/affinity/bin:$PATH
WORKDIR /app

# The dependencies in a layer of their own: a change of our code does not fetch them again.
COPY pyproject.toml constraints.txt README.md ./
RUN pip install --constraint constraints.txt --editable '.[dispatcher]'

# Editable as in the Makefile, so that the code under /app is the code that runs, weights and catalogue included.
COPY affinity affinity
COPY models models
COPY dispatcher dispatcher
RUN pip install --no-deps --editable . && python -m compileall -q affinity models dispatcher


FROM python:3.11.15-slim-bookworm

RUN groupadd --gid 10001 affinity \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin affinity
COPY --from=build /opt/affinity /opt/affinity
COPY --from=build /app /app

ENV PATH=/opt/affinity/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
EXPOSE 5000

HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 5000, timeout=4); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "dispatcher"]
