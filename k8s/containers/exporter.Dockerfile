# The exporter: from checkpoints to model repositories, on CPUs. Build it from the root of the repository:
#   docker build -f k8s/containers/exporter.Dockerfile -t capeserve-exporter:dev .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/capeserve
COPY k8s/containers/exporter.requirements.txt .
# torch's CPU build is a tenth of the one on PyPI; what it depends on is among the requirements, which are all there is.
RUN /opt/capeserve/bin/pip install --no-cache-dir --no-deps --require-hashes -r exporter.requirements.txt \
    && /opt/capeserve/bin/pip install --no-cache-dir --no-deps torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu \
    && /opt/capeserve/bin/pip install --no-cache-dir --prefix /build/tools hatchling==1.27.0
COPY pyproject.toml README.md LICENSE ./
COPY cape cape
COPY cli cli
COPY service service
COPY export export
COPY benchmarks benchmarks
COPY gateway gateway
COPY model_repository model_repository
COPY examples examples
RUN PYTHONPATH=/build/tools/lib/python3.11/site-packages \
    /opt/capeserve/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 capeserve && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp capeserve
COPY --from=build /opt/capeserve /opt/capeserve
COPY configurations /configurations
COPY examples/checkpoint /examples/checkpoint
ENV PATH=/opt/capeserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["capeserve"]
CMD ["export", "--help"]
