"""The demo's data set: the same bytes on every build, true to its description, broken in one place only."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.config import load_config
from owl_stream.demo import build_demo_dataset
from owl_stream.demo.dataset import CORRUPT_KEY, SHARDS, DemoSample, demo_samples, read_places
from owl_stream.demo.texts import LANGUAGES, PHOTOGRAPHS
from owl_stream.demo.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE
from owl_stream.errors import SampleError

PICTURES = {"jpg", "png", "webp"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a data set that was built once."""
    return build_demo_dataset(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def samples() -> dict[str, DemoSample]:
    """The samples by key."""
    return {sample.key: sample for sample in demo_samples()}


@pytest.fixture(scope="module")
def tokenizer(config: Path) -> Tokenizer:
    """The tokenizer that the build trained."""
    return Tokenizer.from_file(str(config.with_name("tokenizer.json")))


def test_two_builds_write_the_same_bytes(config: Path, tmp_path: Path) -> None:
    """Shards, tokenizer and configuration are equal in another process with other hash seeds."""
    code = "import sys, pathlib; from owl_stream.demo import build_demo_dataset as b; b(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (config.parent, tmp_path)
    )
    assert first == second
    assert len(first) == SHARDS + 2


def test_building_reports_progress(tmp_path: Path) -> None:
    """The bar moves from shard to shard and ends at all samples."""
    seen: list[tuple[int, int]] = []
    build_demo_dataset(tmp_path, lambda written, total: seen.append((written, total)))
    assert [total for _, total in seen] == [197] * SHARDS
    assert [written for written, _ in seen] == sorted({written for written, _ in seen})
    assert seen[-1] == (197, 197)


def test_the_configuration_names_what_was_built(config: Path) -> None:
    """It loads without complaint, and its shards and tokenizer exist."""
    dataset = load_config(config, environ={}).datasets["demo"]
    assert (config.parent / dataset.tokenizer).exists()
    assert dataset.shards == ("shards/demo-{00000..00003}.tar",)
    assert len(list((config.parent / "shards").iterdir())) == SHARDS


def test_keys_are_unique_and_hold_no_dot(samples: dict[str, DemoSample]) -> None:
    """A key ends at its first dot, so a key with one would be another key."""
    assert len(demo_samples()) == len(samples) == 197
    assert not [key for key in samples if "." in key or "/" in key]


def test_it_holds_every_kind_of_sample(samples: dict[str, DemoSample]) -> None:
    """Single pictures, several, none; three record forms; colour and grey; JPEG, PNG and WebP."""
    forms, pictures, modes, formats = Counter[str](), Counter[int](), set[str](), set[str]()
    for sample in samples.values():
        record = json.loads(sample.members["json"]) if "json" in sample.members else {"txt": ""}
        forms[next(iter(record))] += 1
        images = [data for ext, data in sample.members.items() if ext.rpartition(".")[2] in PICTURES]
        pictures[min(len(images), 2)] += 1
        for data in images:
            with Image.open(io.BytesIO(data)) as image:
                modes.add(image.mode)
                formats.add(str(image.format))
    assert forms["messages"] > forms["conversations"] > 10
    assert forms["txt"] > 10
    assert (pictures[0], pictures[1], pictures[2]) == (36, 112, 49)
    assert modes == {"RGB", "L"}
    assert formats == {"JPEG", "PNG", "WEBP"}


def test_a_record_asks_for_as_many_pictures_as_there_are(samples: dict[str, DemoSample]) -> None:
    """Markers in the text and image members agree in every sample."""
    for sample in samples.values():
        images = sum(ext.rpartition(".")[2] in PICTURES for ext in sample.members)
        if "json" in sample.members:
            text = sample.members["json"].decode()
            assert text.count("<image>") + text.count("<|image|>") == images
        else:
            assert images == 1


def test_every_language_captions_every_photograph(samples: dict[str, DemoSample]) -> None:
    """Six languages, one caption each per photograph, no two photographs with the same caption."""
    assert len(LANGUAGES) == 6
    for language in LANGUAGES:
        assert len(set(language.captions)) == len(PHOTOGRAPHS)
        assert {f"{language.code}-{name.partition('.')[0]}" for name in PHOTOGRAPHS} <= set(samples)


def test_the_corrupt_jpeg_has_a_header_and_an_end_but_no_whole_scan(samples: dict[str, DemoSample]) -> None:
    """Indexing, which reads headers and looks for the end, takes it; a decoder that hides no damage does not."""
    data = samples[CORRUPT_KEY].members["jpg"]
    header = probe(data, max_pixels=10**6)
    assert (header.width, header.height) == (480, 480)
    with pytest.raises(SampleError) as caught:
        decode(data, header)
    assert caught.value.reason == "jpeg_corrupt"


def test_every_other_picture_decodes(samples: dict[str, DemoSample]) -> None:
    """One sample is corrupt, and no other."""
    pictures = {
        data
        for sample in samples.values()
        for ext, data in sample.members.items()
        if sample.key != CORRUPT_KEY and ext.rpartition(".")[2] in PICTURES
    }
    assert len(pictures) == len(PHOTOGRAPHS) + 1
    for data in pictures:
        pixels = decode(data, probe(data, max_pixels=10**6)).pixels
        assert max(pixels.shape[:2]) <= 480


def test_places_are_where_the_bytes_are(config: Path, samples: dict[str, DemoSample]) -> None:
    """What is read back from the shards lies at the offsets that it is said to lie at."""
    places = read_places(config.parent)
    assert {place.key for place in places} == set(samples)
    for place in places:
        data = samples[place.key].members[place.member.removeprefix(place.key + ".")]
        with (config.parent / "shards" / place.shard).open("rb") as shard:
            shard.seek(place.offset)
            assert shard.read(len(data)) == data


def test_the_tokenizer_roundtrips_every_text(tokenizer: Tokenizer, samples: dict[str, DemoSample]) -> None:
    """All six languages come back letter by letter, and cost far fewer tokens than bytes."""
    tokens = size = 0
    for text in {text for sample in samples.values() for text in sample.texts}:
        assert unicodedata.is_normalized("NFC", text)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        tokens, size = tokens + len(ids), size + len(text.encode())
    assert 2.5 * tokens < size


def test_the_tokenizer_is_like_the_real_one(tokenizer: Tokenizer) -> None:
    """Three special tokens, each one id; `<|image|>` is ordinary text of several tokens."""
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    for token in SPECIAL_TOKENS:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]
    assert len(tokenizer.encode("<|image|>").ids) > 1
