"""ModelService: the served models and their speed."""

from __future__ import annotations

import base64
import binascii

from cape.manifest import Manifest, ModalityUse
from cape.v1 import modality_pb2, model_service_pb2, model_service_pb2_grpc
from service.errors import InvalidFieldError
from service.pipelines.answers import MODEL_PREFIX, duration
from service.pipelines.deadlines import Context
from service.supports.registry import page_size_of
from service.telemetry.performance import Percentiles, PerformanceMonitor, SystemPerformance

PARITY_OUTPUT = "chain.keypoints"
"""The manifest's parity entry for the keypoints of an answer: all components run in sequence."""


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Lists the served models and reports their speed."""

    def __init__(
        self,
        manifest: Manifest,
        performance: PerformanceMonitor,
        *,
        default_system: str,
        engine: str,
        limits: model_service_pb2.RequestLimits | None = None,
    ) -> None:
        """Takes the manifest, the live figures, the default system, and the description of the engine."""
        self._performance = performance
        self._limits = limits
        self._models = [_model(manifest, system, default_system, engine) for system in manifest.systems]

    async def ListModels(  # noqa: N802
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """See model_service.proto."""
        size = page_size_of(request.page_size)
        start = _start(request.page_token, [model.name for model in self._models])
        page = self._models[start : start + size]
        more = start + size < len(self._models)
        token = base64.urlsafe_b64encode(page[-1].name.encode()).decode() if more else ""
        return model_service_pb2.ListModelsResponse(models=page, next_page_token=token, limits=self._limits)

    async def GetPerformanceReport(  # noqa: N802
        self, request: model_service_pb2.GetPerformanceReportRequest, context: Context
    ) -> model_service_pb2.GetPerformanceReportResponse:
        """See model_service.proto."""
        figures = [_performance(system) for system in self._performance.report()]
        return model_service_pb2.GetPerformanceReportResponse(models=figures)


def _performance(system: SystemPerformance) -> model_service_pb2.ModelPerformance:
    message = model_service_pb2.ModelPerformance(
        model=f"{MODEL_PREFIX}{system.system}",
        count=system.instances,
        warm=_percentiles(system.warm),
        cold=_percentiles(system.cold),
        frames_per_second=system.frames_per_second,
        busy_frames_per_second=system.busy_frames_per_second,
        speed_ratio=system.speed_ratio,
    )
    message.start_time.FromNanoseconds(round(system.start_time * 1e9))
    if system.paper is not None:
        message.paper.time.CopyFrom(duration(system.paper.seconds))
        message.paper.frames_per_second = system.paper.frames_per_second
    return message


def _percentiles(percentiles: Percentiles) -> model_service_pb2.LatencyPercentiles:
    return model_service_pb2.LatencyPercentiles(
        count=percentiles.count,
        p50=duration(percentiles.p50),
        p95=duration(percentiles.p95),
        p99=duration(percentiles.p99),
    )


def _start(token: str, names: list[str]) -> int:
    """Index at which a page begins: after the last model of the page before."""
    if not token:
        return 0
    try:
        return names.index(base64.b64decode(token, altchars=b"-_", validate=True).decode()) + 1
    except (binascii.Error, ValueError):
        raise InvalidFieldError("page_token", "not a token that this server gave out") from None


def _model(manifest: Manifest, name: str, default_system: str, engine: str) -> model_service_pb2.Model:
    system = manifest.systems[name]
    uses: dict[modality_pb2.Modality.ValueType, ModalityUse] = {
        modality_pb2.MODALITY_IMAGE: system.modalities.image,
        modality_pb2.MODALITY_TEXT: system.modalities.text,
    }
    parity = [entry.largest for entry in system.parity if entry.output == PARITY_OUTPUT]
    return model_service_pb2.Model(
        name=f"{MODEL_PREFIX}{name}",
        system=name,
        version=manifest.version(name),
        backbone=system.backbone,
        text_encoder=system.text_model,
        image_size=manifest.image_size,
        max_keypoints=manifest.max_keypoints,
        precision=manifest.components[system.main_component].precision,
        required_modalities=[modality for modality, use in uses.items() if use == "required"],
        optional_modalities=[modality for modality, use in uses.items() if use == "optional"],
        parity_keypoints=max(parity, default=0.0),
        engine=engine,
        is_default=name == default_system,
        max_text_tokens=encoder.max_tokens if (encoder := getattr(system, "text_encoder", None)) else 0,
        max_examples=manifest.max_shots,
    )
