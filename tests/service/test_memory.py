"""Freed memory is kept at hand: decoding photographs one after another does not fault their pages in each time."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from benchmarks.harness.workloads import EXAMPLES

PROGRAM = """
import io, resource, sys
from PIL import Image
from cape.v1 import image_pb2
from service.images.reading import ImageLimits, open_image
from service.process.memory import keep_freed_memory

print(keep_freed_memory() if sys.argv[2] == "keep" else None)
png = io.BytesIO()
Image.open(sys.argv[1]).save(png, "PNG")
message = image_pb2.Image(encoded=png.getvalue())
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    open_image(message, ImageLimits(2**30, 2**30)).decode()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[10])
"""


def run(mode: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, str(EXAMPLES / "grace_hopper.jpg"), mode]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_decoding_again_faults_next_to_no_pages_in() -> None:
    (_, before), (kept, after) = run("leave"), run("keep")
    assert kept == "True"
    # Half a megabyte of pixels is over a hundred pages.
    assert int(after) < 20 < 100 < int(before)


RETURNING = """
from service.process.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
blocks = [bytearray(b"x") * 100_000 for _ in range(240)]
full = resident()
del blocks
kept = resident()
return_freed_memory()
print(full - kept, kept - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_is_kept_can_be_handed_back() -> None:
    output = subprocess.run([sys.executable, "-c", RETURNING], capture_output=True, text=True, check=True).stdout
    at_once, returned = map(int, output.split())
    assert at_once < 4e6 < 20e6 < returned


def test_what_the_environment_says_of_malloc_stays() -> None:
    assert run("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
