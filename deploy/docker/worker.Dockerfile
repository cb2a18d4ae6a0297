# syntax=docker/dockerfile:1
# The worker: torch and the runtimes. constraints.txt pins torch; its wheel for Linux brings the CUDA libraries, so that
# the host needs only the driver and the NVIDIA container toolkit.
#
# Build from the root of the repository: docker build -f deploy/docker/worker.Dockerfile .

FROM python:3.11.15-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_REQUIRE_VIRTUALENV=1
RUN python -m venv /opt/affinity
ENV PATH=/opt/affinity/bin:$PATH
WORKDIR /app

# The dependencies in a layer of their own: a change of our code does not fetch them again.
COPY pyproject.toml constraints.txt README.md ./
RUN pip install --constraint constraints.txt --editable '.[worker]'

# Editable as in the Makefile, so that the code under /app is the code that runs, weights and catalogue included.
COPY affinity affinity
COPY models models
COPY worker worker
RUN pip install --no-deps --editable . && python -m compileall -q affinity models worker


FROM python:3.11.15-slim-bookworm

RUN groupadd --gid 10001 affinity \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin affinity \
    && install -d -o 10001 -g 10001 /var/cache/affinity
COPY --from=build /opt/affinity /opt/affinity
COPY --from=build /app /app

# HF_HOME: the root is read-only, and what is fetched from a hub outlives the container on a volume.
# NVIDIA_*: what the container toolkit puts in; "utility" is the driver's library that tells how full a GPU is.
ENV PATH=/opt/affinity/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/affinity/huggingface \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 10001:10001
EXPOSE 8000
VOLUME /var/cache/affinity

HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=60s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "worker"]
