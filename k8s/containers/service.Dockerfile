# The service: no torch, no compiler; OpenVINO runs models on CPUs. Build it from the root of the repository:
#   docker build -f k8s/containers/service.Dockerfile -t capeserve:dev .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/capeserve
COPY k8s/containers/service.requirements.txt .
RUN /opt/capeserve/bin/pip install --no-cache-dir --require-hashes -r service.requirements.txt \
    && /opt/capeserve/bin/pip install --no-cache-dir --prefix /build/tools hatchling==1.27.0
COPY pyproject.toml README.md LICENSE ./
COPY cape cape
COPY cli cli
COPY service service
COPY examples examples
# Serving needs no models, no training, no data sets, no benchmarks and no example images, which the wheel takes along.
RUN rm -rf cape/checkpoints.py cape/data cape/evaluation cape/explanation cape/models cape/predictor.py \
        cape/pretrained cape/published cape/training \
    && PYTHONPATH=/build/tools/lib/python3.11/site-packages \
        /opt/capeserve/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && rm -rf /opt/capeserve/lib/python3.11/site-packages/gateway

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 capeserve && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp capeserve
COPY --from=build /opt/capeserve /opt/capeserve
LABEL org.opencontainers.image.title="capeserve" \
    org.opencontainers.image.description="gRPC inference service for category-agnostic pose estimation" \
    org.opencontainers.image.licenses="Apache-2.0"
# Without CAPESERVE_HOST the server listens on loopback, which `docker run -p` cannot reach.
ENV PATH=/opt/capeserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    CAPESERVE_HOST=0.0.0.0 CAPESERVE_HEALTH_PORT=50052
USER 10001:10001
EXPOSE 50051 9464
# For Docker; Kubernetes ignores it and uses the probes of the manifests.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-c", \
    "import grpc; from grpc_health.v1 import health_pb2 as m, health_pb2_grpc as s; \
assert s.HealthStub(grpc.insecure_channel('127.0.0.1:50052')).Check(m.HealthCheckRequest(), timeout=3).status == 1"]
ENTRYPOINT ["capeserve"]
CMD ["serve"]
