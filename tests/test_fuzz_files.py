"""Damaged checkpoints, prepared data and images: each is read, or refused with one message.

Long runs: see test_fuzz.py.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import fuzz, mutated_bytes, one_input
from hypothesis import given
from hypothesis import strategies as st
from packs import packed, starts_over, tensors
from PIL import Image

from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Request
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import fashion_mnist
from ablate.tasks.image_classification.data.image_folder import ImageFiles
from ablate.tasks.image_classification.data.parquet import read_parquet
from ablate.tasks.image_classification.data.prepare import _save, load
from ablate.tasks.image_classification.training.trainer import Trainer, written

pytestmark = pytest.mark.filterwarnings("ignore")
STATE = {
    "net": {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, "optimizer": {"state": {},
    "param_groups": [{"lr": 0.1}]},
    "modulation": {}, "epoch": 2, "duration_s": 1.5, "curves": {"val_accuracy": [0.1, 0.2]}, "layers": [],
}  # fmt: skip


def saved(**options):
    sink = io.BytesIO()
    torch.save(STATE, sink, **options)
    return sink.getvalue()


def image(kind, mode="RGB"):
    sink = io.BytesIO()
    Image.new(mode, (32, 32), 7).save(sink, kind)
    return sink.getvalue()


CHECKPOINTS = [saved(), saved(_use_new_zipfile_serialization=False)]
IMAGES = [image("png"), image("png", "P"), image("png", "1"), image("jpeg"), image("gif", "P"), image("bmp"),
image("tiff"),
          image("webp"), image("ppm")]  # fmt: skip
IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 4, 4) + bytes(range(32)), struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"\0\1"


@fuzz(60, 2)
@given(content=mutated_bytes(CHECKPOINTS))
def test_checkpoints_with_other_bytes(folder, content):
    (folder / "k.pt").write_bytes(content)
    # What it raises a pack takes for a trial that starts over.
    with one_input("checkpoints, bytes changed"), contextlib.suppress(Exception):
        tensors(Checkpoints(folder).load("k"))


OTHERS = st.sampled_from([None, 0, -1, 99, 1.5, "x", [], {}, torch.ones(2), {"val_accuracy": []}, [0.1]])


@fuzz(25, 0.3)
@given(data=st.data())
def test_readable_checkpoints_with_other_content_start_over(folder, tiny_dataset, data):
    settings = resolve({"dataset": "digits", "depth": 8, "width": 2, "epochs": 2, "batch_size": 32}).settings()
    task = Request(key="k", fingerprint="f", seed=0, phase="tune", settings=settings, data_digest=tiny_dataset.digest)
    device = torch.device("cpu")
    trainer = Trainer(resolve(settings), tiny_dataset, 0, device)
    trainer.run_epoch()
    state = trainer.state()
    where = data.draw(st.sampled_from([state, state["net"], state["curves"]]))
    name = data.draw(st.sampled_from(sorted(where)))
    if data.draw(st.booleans()):
        where[name] = data.draw(OTHERS)
    else:
        del where[name]
    is_list = data.draw(st.integers(0, 9)) == 0
    Checkpoints(folder).save("k", written([state] if is_list else state))
    with one_input("checkpoints, content changed"):
        (record,) = packed([task], tiny_dataset, device, Checkpoints(folder)).run()
        assert record.state == "complete", record.message
        assert "Traceback" not in record.message
        assert len(record.curves["val_accuracy"]) == 2


def test_a_checkpoint_with_a_flipped_bit_is_none(folder, tiny_dataset, caplog):
    whole = bytearray(saved())
    whole[whole.index(torch.ones(2, 3).numpy().tobytes())] ^= 1
    (folder / "k.pt").write_bytes(whole)
    starts_over(folder, tiny_dataset)
    assert "wrong checksum" in caplog.text


@fuzz(25, 1)
@given(data=st.data())
def test_prepared_files_with_other_bytes(folder, tiny_dataset, data):
    path = folder / "data.pt"
    _save(path, tiny_dataset)
    path.write_bytes(data.draw(mutated_bytes([path.read_bytes()])))
    with one_input("prepared data, bytes changed"):
        load(path)


@fuzz(60, 2)
@given(content=mutated_bytes(IMAGES))
def test_images_of_folders_with_other_bytes(folder, monkeypatch, content):
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "0")
    (folder / "0.png").write_bytes(content)
    images = ImageFiles(str(folder), ("0.png",), torch.zeros(1, dtype=torch.int64), 8)
    with one_input("images of folders, bytes changed"):
        next(images.in_order(1))


@fuzz(25, 1)
@given(
    contents=st.lists(st.none() | mutated_bytes(IMAGES), min_size=1, max_size=2),
    label=st.sampled_from([0, -1, 2**40, None]),
)
def test_images_in_parquet_files_with_other_bytes(folder, contents, label):
    table = pa.table(
        {"img": [{"bytes": content, "path": ""} for content in contents], "label": [label] * len(contents)}
    )
    pq.write_table(table, folder / "train.parquet")
    with one_input("images in Parquet files"):
        read_parquet([folder / "train.parquet"], label_column="label", size=32)


@fuzz(25, 1)
@given(data=st.data())
def test_parquet_files_of_images_with_other_bytes(folder, data):
    path = folder / "train.parquet"
    pq.write_table(pa.table({"img": [{"bytes": IMAGES[0], "path": ""}], "label": [0]}), path)
    path.write_bytes(data.draw(mutated_bytes([path.read_bytes()])))
    with one_input("Parquet files of images, bytes changed"):
        read_parquet([path], label_column="label", size=32)


@fuzz(25, 1)
@given(data=st.data(), is_packed=st.booleans())
def test_idx_files_with_other_bytes(folder, data, is_packed):
    paths = []
    for name, content in zip(("images", "labels"), IDX, strict=True):
        changed = data.draw(mutated_bytes([content]))
        path = folder / (f"{name}.gz" if is_packed else name)
        path.write_bytes(data.draw(mutated_bytes([gzip.compress(changed)])) if is_packed else changed)
        paths.append(path)
    with one_input("IDX files, bytes changed"):
        fashion_mnist._read_split(*paths)
