"""Whole batches of every family, from tars to the client's tensors, against the models' own processors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from owl_client.device import finish
from owl_stream.assemble import Dataset, open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.errors import ContractError
from owl_stream.layouts import check_batch
from tests.support.assembly import Made, run_job
from tests.support.families import FAMILIES, QWENS, Family, as_parts, make_family, opened
from tests.support.images import encode
from tests.support.tars import chat, write_shard

OURS = {"labels", "position_ids"}
"""What no processor returns."""


@dataclass(frozen=True)
class Stage:
    """A model, and a data set that is served for it; `samples`: key -> (record, files of its pictures)."""

    family: Family
    dataset: Dataset
    samples: dict[str, tuple[list[dict[str, str]], list[bytes]]]

    def expected(self, keys: list[str]) -> Any:
        """What the processor makes of these samples."""
        rows = [self.samples[key] for key in keys]
        pictures = [opened(data) for _, files in rows for data in files]
        return self.family.batch([as_parts(messages) for messages, _ in rows], pictures)

    def made(self, step: int, rank: int, world_size: int) -> tuple[Made, dict[str, torch.Tensor]]:
        """A rank's share of a step, as the client hands it out: pixels finished."""
        size = self.dataset.global_batch_size // world_size
        made = run_job(self.dataset, self.dataset.job(0, step, 0, rank, world_size, size))
        ways = {entry.name: entry.normalise for entry in self.dataset.schema}
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in made.tensors.items()}
        return made, {
            name: tensor if (way := ways[name]) is None else finish(tensor, torch.float32, way)
            for name, tensor in tensors.items()
        }


def _noise(width: int, height: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (max(1, height // 4), max(1, width // 4), 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def _pictures() -> Iterator[tuple[str, bytes]]:
    """Every kind of picture: photographs, odd sides, extreme shapes, grey, palette, transparent."""
    for at, size in enumerate([(500, 375), (200, 900), (31, 29), (1, 1), (28, 28), (42, 70), (199, 1), (3, 500)]):
        yield f"size-{size[0]}x{size[1]}", encode(_noise(*size, at), "PNG")
    photo = _noise(120, 90, 20)
    yield "grey", encode(photo.convert("L"), "PNG")
    yield "palette", encode(photo.quantize(32), "PNG")
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120), np.uint8)))
    yield "alpha", encode(alpha, "PNG")
    yield "grey-alpha", encode(alpha.convert("LA"), "PNG")
    palette = photo.quantize(16)
    palette.info["transparency"] = 3
    yield "clear-palette", encode(palette, "PNG", transparency=3)
    yield "jpeg", encode(photo, "JPEG")


def _samples() -> dict[str, tuple[list[dict[str, str]], list[bytes]]]:
    pictures = list(_pictures())
    found = {}
    for name, data in pictures:
        turns = [("<|image|>What is it?", "An owl."), ("Are you sure?", "Quite sure, it is one.")]
        found[name] = (_turns(turns), [data])
    many = [data for _, data in pictures[:5]]
    found["many"] = (
        _turns([("One <|image|> two <|image|><|image|>", "Three."), ("<|image|> and <|image|>", "Five.")]),
        many,
    )
    found["behind"] = (_turns([("Look at this: <|image|>", "Nice.")]), many[:1])
    for number in range(5):
        found[f"text-{number}"] = (_turns([("Hello " * (number + 1), "Good evening. " * (number + 1))]), [])
    system = {"role": "system", "content": "You are brief."}
    found["system"] = ([system, *_turns([("<|image|>What?", "A cat."), ("And?", "No more.")])], many[1:2])
    found["empty-system"] = ([{"role": "system", "content": ""}, *_turns([("Hi", "Ho")])], [])
    return found


def _turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


@pytest.fixture(scope="module", params=FAMILIES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Each family over the same samples, resized as its processor resizes."""
    directory = tmp_path_factory.mktemp(request.param)
    family = make_family(request.param, directory / "model")
    samples = _samples()
    members = []
    for key, (messages, files) in samples.items():
        names = [f"{number}.png" for number in range(len(files))]
        record = json.dumps({"messages": messages, "images": names}).encode()
        members.append((key, {"json": record, **dict(zip(names, files, strict=True))}))
    write_shard(directory / "s-000.tar", members)
    dataset = _open(directory, modality="off")
    yield Stage(family, dataset, samples)
    dataset.close()


def _open(directory: Path, **settings: Any) -> Dataset:
    config = DatasetConfig(
        shards=("s-*.tar",), model="model", resize="pillow", global_batch_size=4, bucket_window=2, **settings
    )
    return open_dataset("train", config, directory, None, processes=0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_tensor_is_what_the_processor_makes(stage: Stage, world_size: int) -> None:
    """Ids, masks, grids and types are equal, pixels to 1e-6; labels are those of an independent prefix computation."""
    seen = set()
    for step in range(stage.dataset.steps_per_epoch):
        for rank in range(world_size):
            made, tensors = stage.made(step, rank, world_size)
            keys = [row.key for row in made.header.rows if row.status == "ok"]
            if len(keys) < len(made.header.rows):
                continue  # a filler is no sample, so no processor knows it
            seen |= {*keys}
            expected = stage.expected(keys)
            assert set(expected) == set(tensors) - OURS
            for name in expected:
                if name == "pixel_values":
                    assert tensors[name].shape == expected[name].shape
                    assert (tensors[name] - expected[name]).abs().max() <= 1e-6
                else:
                    assert torch.equal(tensors[name], expected[name]), name
            for b, key in enumerate(keys):
                messages, files = stage.samples[key]
                labels = stage.family.labels(as_parts(messages), [opened(data) for data in files])
                assert tensors["labels"][b, : len(labels)].tolist() == labels
                assert (tensors["labels"][b, len(labels) :] == -100).all()
    assert len(seen) > len(stage.samples) - stage.dataset.global_batch_size


def test_positions_are_what_the_model_computes(stage: Stage) -> None:
    """Of every attended token of every batch, where the family ships positions."""
    if stage.family.name not in QWENS:
        assert "position_ids" not in stage.made(0, 0, 1)[1]
        return
    model = stage.family.model()
    for step in range(stage.dataset.steps_per_epoch):
        _, tensors = stage.made(step, 0, 1)
        expected, _ = model.model.get_rope_index(
            tensors["input_ids"],
            mm_token_type_ids=tensors["mm_token_type_ids"],
            image_grid_thw=tensors.get("image_grid_thw"),
            attention_mask=tensors["attention_mask"],
        )
        attended = tensors["attention_mask"].bool()
        assert torch.equal(tensors["position_ids"][:, attended], expected[:, attended])


@torch.no_grad()
def test_a_batch_gives_the_logits_of_its_rows_alone(stage: Stage) -> None:
    """On a tiny random model of the released class, with text-only, single and many images mixed."""
    model = stage.family.model()
    for step in range(min(4, stage.dataset.steps_per_epoch)):
        made, tensors = stage.made(step, 0, 1)
        together = model(**tensors).logits
        for b, row in enumerate(made.header.rows):
            if row.status == "ok":
                alone = model(**stage.expected([row.key])).logits[0]
                assert (together[b, : len(alone)] - alone).abs().max() <= 1e-5


@torch.no_grad()
def test_a_token_sees_the_units_that_change_its_logits(stage: Stage) -> None:
    """What the inspector shows, held against the model: one unit's pixels are changed at a time."""
    model, layout, shown = stage.family.model(), stage.dataset.layout, 0
    for step in range(min(5, stage.dataset.steps_per_epoch)):
        made, tensors = stage.made(step, 0, 1)
        if "pixel_values" not in tensors:
            continue
        looks, logits, first = layout.look(made.tensors), model(**tensors).logits, 0
        lengths = tensors["attention_mask"].sum(1).tolist()
        pixels_of = _sizes_of_units(tensors)
        for b, (look, length) in enumerate(zip(looks, lengths, strict=True)):
            placeholders = torch.isin(tensors["input_ids"][b], torch.tensor([*layout.placeholder_ids]))
            assert np.array_equal(look.unit >= 0, placeholders.numpy())
            for unit in range(len(look.pictures)):
                pixels = tensors["pixel_values"].clone()
                last = first + next(pixels_of)
                pixels[first:last] += 1
                first = last
                change = (model(**tensors | {"pixel_values": pixels}).logits - logits).abs().amax(-1)
                assert np.array_equal(change[b, :length] > 1e-7, look.sees[:length] > unit)
                assert not change[:b].any()
                shown += 1
        assert next(pixels_of, None) is None
        assert first == len(tensors["pixel_values"])
    assert shown >= 4


def _sizes_of_units(tensors: dict[str, torch.Tensor]) -> Iterator[int]:
    """How many rows of `pixel_values` belong to each unit."""
    grids = tensors.get("image_grid_thw")
    yield from (1 for _ in tensors["pixel_values"]) if grids is None else grids.prod(1).tolist()


def test_the_pictures_shown_are_those_of_the_processor(stage: Stage) -> None:
    """For each image of each row: its pixels as resized, or its tiles one by one."""
    shown = 0
    for step in range(stage.dataset.steps_per_epoch):
        made, _ = stage.made(step, 0, 1)
        looks = stage.dataset.layout.look(made.tensors)
        pictures = [picture for look in looks for picture in look.pictures]
        if stage.family.name in QWENS:
            files = [data for row in made.header.rows if row.status == "ok" for data in stage.samples[row.key][1]]
            for picture, data in zip(pictures, files, strict=True):
                opaque = convert_to_rgb(opened(data))  # lays what is transparent on white
                resized = opaque.resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
                assert np.array_equal(picture, np.asarray(resized))
        else:
            assert np.array_equal(pictures, made.tensors["pixel_values"].transpose(0, 2, 3, 1) if pictures else [])
        shown += len(pictures)
    assert shown >= 20


@pytest.fixture(scope="module", params=QWENS)
def filmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Videos of even and odd numbers of frames, alone and beside images, and rows without either."""
    directory = tmp_path_factory.mktemp(f"{request.param}-video")
    family = make_family(request.param, directory / "model")
    samples: dict[str, tuple[list[dict[str, str]], list[bytes]]] = {}
    members = []
    for number in range(8):
        frames = [encode(_noise(120, 80, 100 * number + at), "PNG") for at in range(2 + number % 4)]
        mixed = number % 2 == 1
        question = "First <|video|> then <|image|> what?" if mixed else "What happens? <|video|>"
        messages = _turns([(question, f"Nothing, {number} times.")])
        names = [f"{at}.png" for at in range(len(frames))]
        record: dict[str, Any] = {"messages": messages, "videos": [names], "images": ["still.png"] if mixed else []}
        files = dict(zip(names, frames, strict=True)) | ({"still.png": frames[0]} if mixed else {})
        members.append((f"video-{number}", {"json": json.dumps(record).encode(), **files}))
        samples[f"video-{number}"] = (messages, frames)
    members += [(f"text-{number}", {"json": chat(("Hello", "Good day, " * (number + 1)))}) for number in range(4)]
    write_shard(directory / "s-000.tar", members)
    dataset = _open(directory)
    yield Stage(family, dataset, samples)
    dataset.close()


def test_steps_with_videos_are_of_one_kind(filmed: Stage) -> None:
    """Texts, videos, and videos with images come in steps of their own: all ranks call the same towers."""
    dataset = filmed.dataset
    pools = [dataset.describe_step(0, step)["pool"] for step in range(dataset.steps_per_epoch)]
    assert sorted(pools) == ["image_video", "text", "video"]


@torch.no_grad()
def test_videos_have_the_models_positions_and_keep_to_their_rows(filmed: Stage) -> None:
    """Positions are what the model computes from the grids, and a batch gives the logits of its rows alone."""
    model = filmed.family.model()
    for step in range(filmed.dataset.steps_per_epoch):
        made, tensors = filmed.made(step, 0, 1)
        grids = {name: tensors[name] for name in ("image_grid_thw", "video_grid_thw") if name in tensors}
        if "second_per_grid_ts" in tensors:
            grids["second_per_grid_ts"] = tensors["second_per_grid_ts"]
        expected, _ = model.model.get_rope_index(
            tensors["input_ids"],
            mm_token_type_ids=tensors["mm_token_type_ids"],
            attention_mask=tensors["attention_mask"],
            **grids,
        )
        attended = tensors["attention_mask"].bool()
        assert torch.equal(tensors["position_ids"][:, attended], expected[:, attended])
        together = model(**tensors).logits
        for b in range(len(made.header.rows)):
            _, alone = filmed.made(step, b, 4)
            (row,) = [at for at, info in enumerate(made.header.rows) if info == _only(filmed, step, b)]
            logits = model(**alone).logits[0]
            assert (together[row, : len(logits)] - logits).abs().max() <= 1e-5


def _only(stage: Stage, step: int, rank: int) -> Any:
    return stage.made(step, rank, 4)[0].header.rows[0]


def test_a_frame_fills_its_half_of_the_patches(filmed: Stage) -> None:
    """Patches of a video, put together again, are its frames as Pillow resizes them."""
    dataset = filmed.dataset
    step = next(at for at in range(dataset.steps_per_epoch) if dataset.describe_step(0, at)["pool"] == "video")
    made = run_job(dataset, dataset.job(0, step, 0, 0, 1, 4))
    side, merge = made.tensors["pixel_values_videos"].shape[-1], 2
    first = 0
    for row, (pairs, high, wide) in zip(made.header.rows, made.tensors["video_grid_thw"].tolist(), strict=True):
        patches = made.tensors["pixel_values_videos"][first : first + pairs * high * wide]
        first += len(patches)
        blocks = patches.reshape(pairs, high // merge, wide // merge, merge, merge, 3, 2, side, side)
        whole = blocks.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(2 * pairs, high * side, wide * side, 3)
        frames = [opened(data).convert("RGB") for data in filmed.samples[row.key][1]]
        frames += frames[-1:] * (len(frames) % 2)
        for got, frame in zip(whole, frames, strict=True):
            assert np.array_equal(got, np.asarray(frame.resize((wide * side, high * side), Image.Resampling.BICUBIC)))


def _harmed(
    name: str, tensors: dict[str, torch.Tensor], placeholders: torch.Tensor
) -> Iterator[tuple[str, dict[str, torch.Tensor], str]]:
    """Batches that the model would misread or die of: what was done, the batch, and what the error names."""
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    padded = mask.clone()
    padded[0, 0] = 0
    yield "left padding", tensors | {"attention_mask": padded}, "attention_mask, row 0, token 0"
    yield "a picture less", {key: value for key, value in tensors.items() if key != "pixel_values"}, "pixel_values"
    yield "half a picture", tensors | {"pixel_values": tensors["pixel_values"][:-1]}, "pixel_values"
    moved, first = ids.clone(), int(torch.isin(ids[0], placeholders).nonzero()[0])
    moved[1, int(mask[1].sum()) - 1], moved[0, first] = ids[0, first], ids[0, 0]
    yield "a placeholder in another row", tensors | {"input_ids": moved}, "row 0"
    yield from _misshapen(tensors)
    if name in QWENS:
        grids = tensors["image_grid_thw"]
        yield "a column of grids less", tensors | {"image_grid_thw": grids[:, 1:]}, r"image_grid_thw: expected shape"
        yield "four axes", tensors | {"position_ids": torch.ones(4, *ids.shape).long()}, "position_ids: expected shape"
        yield "a grid less", tensors | {"image_grid_thw": grids[:-1]}, "image_grid_thw"
        yield "grids swapped", tensors | {"image_grid_thw": grids.flip(0)}, "row 0|image_grid_thw"
        yield (
            "text positions",
            tensors | {"position_ids": torch.arange(ids.shape[1]).expand(3, *ids.shape)},
            "position_ids",
        )
        yield "no types", tensors | {"mm_token_type_ids": torch.zeros_like(ids)}, "mm_token_type_ids, row 0, token"
    if name == "gemma3":
        yield "no types", tensors | {"token_type_ids": torch.zeros_like(ids)}, "token_type_ids, row 0, token"
        yield "types missing", {k: v for k, v in tensors.items() if k != "token_type_ids"}, "token_type_ids: expected"


def test_media_that_the_model_would_take_for_one_are_refused_by_name(tmp_path: Path) -> None:
    """Qwen tells two images apart by the text between them, which a template may leave out; one sample is bad then."""
    directory = make_family("qwen2_5_vl", tmp_path / "model").directory
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.text if p.type == 'text' else '<|image_pad|>' }}{% endfor %}{% endif %}{% endfor %}"
    )
    data = encode(_noise(60, 60, 1), "PNG")
    members = []
    for key, question in (("apart", "<|image|>a<|image|>b"), ("together", "<|image|><|image|>b")):
        record = {"messages": _turns([(question, "Yes.")]), "images": ["0.png", "1.png"]}
        members.append((key, {"json": json.dumps(record).encode(), "0.png": data, "1.png": data}))
    write_shard(tmp_path / "s-000.tar", members)
    dataset = _open(tmp_path)
    (bad,) = dataset.quarantine()
    assert (bad["key"], bad["reason"]) == ("together", "template_media")
    dataset.close()


def _misshapen(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor], str]]:
    """Batches whose tensors do not fit together, or not the model."""
    mask, labels, pixels = tensors["attention_mask"], tensors["labels"], tensors["pixel_values"]
    yield "a mask of one row", tensors | {"attention_mask": mask[:1]}, r"attention_mask: expected shape \[4, "
    yield "a longer mask", tensors | {"attention_mask": torch.cat([mask, mask], 1)}, "attention_mask: expected shape"
    yield "a mask for one", tensors | {"attention_mask": mask[0]}, "attention_mask: expected shape"
    yield "no ids", tensors | {"input_ids": None}, "input_ids: expected it"  # type: ignore[dict-item] # on purpose
    yield "floats", tensors | {"input_ids": tensors["input_ids"].float()}, "input_ids: expected whole numbers"
    yield "shifted labels", tensors | {"labels": labels.roll(-1, 1)}, r"labels, row \d, token \d+: expected -100 or \d+"
    shorter, learned = mask.clone(), labels.clone()
    shorter[:, -1], learned[:, -1] = 0, tensors["input_ids"][:, -1]
    unattended = tensors | {"attention_mask": shorter, "labels": learned}
    yield "padding learned", unattended, r"labels, row \d, token \d+: expected -100, as nothing"
    yield "pixels of another size", tensors | {"pixel_values": pixels[..., :-1]}, "pixel_values: expected shape"


def test_what_the_processor_returns_passes_with_labels(stage: Stage) -> None:
    """Positions are the model's to compute where a batch has none; arrays and lists pass as tensors do."""
    keys = ["size-500x375", "text-1", "many", "grey"]
    batch = dict(stage.expected(keys))
    batch["labels"] = torch.where(batch["attention_mask"] == 0, -100, batch["input_ids"])
    model = str(stage.family.directory)
    assert check_batch(batch, model=model).text_only_rows == 1
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    assert check_batch(arrays, model=model) == check_batch(batch, model=model)
    lists = {name: array if name == "pixel_values" else array.tolist() for name, array in arrays.items()}
    assert check_batch(lists, model=model) == check_batch(batch, model=model)


def test_the_wrong_ways_are_refused(stage: Stage) -> None:
    """Each wrong batch is named, and the right one passes, whoever made it."""
    model = str(stage.family.directory)
    step = next(s for s in range(stage.dataset.steps_per_epoch) if len(_pictured(stage, s)) == 4)
    _, tensors = stage.made(step, 0, 1)
    assert check_batch(tensors, model=model).rows_with_media == 4
    harmed = list(_harmed(stage.family.name, tensors, torch.tensor([*stage.dataset.layout.placeholder_ids])))
    assert len(harmed) >= 4
    for _, batch, message in harmed:
        with pytest.raises(ContractError, match=message):
            check_batch(batch, model=model)


def _pictured(stage: Stage, step: int) -> list[str]:
    keys = [row["key"] for row in stage.dataset.describe_step(0, step)["rows"]]
    return [key for key in keys if stage.samples[key][1]]


def _two_lengths(stage: Stage) -> dict[str, torch.Tensor]:
    """A batch with pictures whose rows differ in length; the shortest row has a picture too."""
    for step in range(stage.dataset.steps_per_epoch):
        made, tensors = stage.made(step, 0, 1)
        shortest = made.header.rows[int(tensors["attention_mask"].sum(1).argmin())]
        if shortest.key in _pictured(stage, step) and not tensors["attention_mask"].all():
            return tensors
    raise AssertionError("no step has rows of two lengths")


@pytest.mark.parametrize("stage", ["qwen3_5"], indirect=True)
@torch.no_grad()
def test_qwen3_5_silently_misreads_left_padding(stage: Stage) -> None:
    """Without a mask, which right padding does not need, its linear layers read the padding before the row."""
    model, tensors = stage.family.model(), _two_lengths(stage)
    row = int(tensors["attention_mask"].sum(1).argmin())
    length = int(tensors["attention_mask"][row].sum())
    names = ("input_ids", "mm_token_type_ids")
    ids, types = (tensors[name][row : row + 1] for name in names)
    places = tensors["position_ids"][:, row : row + 1]
    first = sum(int(grid.prod()) for at in range(row) for grid in _grids_of(tensors, at))
    grids = _grids_of(tensors, row)
    count = sum(int(grid.prod()) for grid in grids)
    media = {
        "image_grid_thw": torch.stack(grids),
        "pixel_values": tensors["pixel_values"][first : first + count],
    }
    alone = model(
        input_ids=ids[:, :length], mm_token_type_ids=types[:, :length], position_ids=places[..., :length], **media
    ).logits[0]
    right = model(input_ids=ids, mm_token_type_ids=types, position_ids=places, **media).logits[0, :length]
    shift = ids.shape[1] - length
    rolled = [each.roll(shift, -1) for each in (ids, types, places)]
    left = model(input_ids=rolled[0], mm_token_type_ids=rolled[1], position_ids=rolled[2], **media).logits[0, shift:]
    assert (right - alone).abs().max() <= 1e-5
    assert (left - alone).abs().max() > 1e-2


def _grids_of(tensors: dict[str, torch.Tensor], row: int) -> list[torch.Tensor]:
    """The grids of a row's images, by its placeholders."""
    counts = (tensors["mm_token_type_ids"] == 1).sum(1).tolist()
    at = 0
    for each, tokens in enumerate(counts):
        mine: list[torch.Tensor] = []
        while sum(int(grid.prod()) // 4 for grid in mine) < tokens:
            mine.append(tensors["image_grid_thw"][at])
            at += 1
        if each == row:
            return mine
    raise AssertionError("no such row")


@pytest.mark.parametrize("stage", ["gemma3"], indirect=True)
@torch.no_grad()
def test_gemma3_silently_turns_causal_without_types(stage: Stage) -> None:
    """It runs, and rows with pictures get other logits."""
    model, tensors = stage.family.model(), _two_lengths(stage)
    right = model(**tensors).logits
    wrong = model(**{name: tensor for name, tensor in tensors.items() if name != "token_type_ids"}).logits
    attended = tensors["attention_mask"].bool()
    assert (right - wrong)[attended].abs().max() > 1e-3


@pytest.mark.parametrize("stage", ["qwen2_5_vl"], indirect=True)
@torch.no_grad()
def test_grids_that_lost_an_image_break_the_model(stage: Stage) -> None:
    """Placeholders, grids and patches disagree: it dies, or what it says is another thing."""
    model, tensors = stage.family.model(), _two_lengths(stage)
    lost = tensors | {"image_grid_thw": tensors["image_grid_thw"][:-1]}
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        model(**lost)
