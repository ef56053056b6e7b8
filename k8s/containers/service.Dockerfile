# The service: no torch, no compiler, no shell tools of its own. Build it from the root of the repository:
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
ENV PATH=/opt/capeserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 9464
ENTRYPOINT ["capeserve"]
CMD ["serve"]
