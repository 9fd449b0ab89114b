"""What a model's directory says, in the forms in which directories come, and what is missing from one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from owl_stream.config import DatasetConfig
from owl_stream.errors import ConfigError
from owl_stream.layouts import Recipe, settle_recipe
from owl_stream.layouts.qwen.settings import QwenSettings
from owl_stream.models import open_model
from tests.support.families import FAMILIES, make_family


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-VL as this transformers saves it."""
    return make_family("qwen2_5_vl", tmp_path_factory.mktemp("models") / "qwen").directory


@pytest.fixture
def model(qwen: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(qwen, tmp_path / "model")
    return tmp_path / "model"


def settled(directory: Path, **choices: Any) -> Recipe:
    """A dataset's recipe for that model."""
    return settle_recipe(DatasetConfig(shards=("a.tar",), model=directory.name, **choices), directory.parent)


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def settings(directory: Path, **choices: Any) -> QwenSettings:
    """The layout's settings."""
    made = settled(directory, **choices).settings
    assert isinstance(made, QwenSettings)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_directory_settles_everything(tmp_path: Path, name: str) -> None:
    """Layout and tokenizer come from the directory alone, for every family."""
    recipe = settled(make_family(name, tmp_path / "m").directory)
    assert (recipe.layout, recipe.tokenizer) == (name, "m")


def test_pixel_settings_come_in_three_forms(model: Path) -> None:
    """In a file of their own, with limits under `size` or beside it; or within the processor's file."""
    images = model / "preprocessor_config.json"
    limits = [{"size": {"shortest_edge": 3136, "longest_edge": 100352}, "min_pixels": None, "max_pixels": None}]
    limits += [{"size": None, "min_pixels": 3136, "max_pixels": 100352}]
    limits += [{"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": 3136, "max_pixels": 100352}]
    for form in limits:
        edit(images, **form)
        found = settings(model)
        assert (found.min_pixels, found.max_pixels) == (3136, 100352)
    values = json.loads(images.read_text())
    images.unlink()
    (model / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    assert (settings(model).min_pixels, settings(model).max_pixels) == (3136, 100352)
    chosen = settings(model, vision={"max_pixels": 50176})
    assert (chosen.min_pixels, chosen.max_pixels) == (3136, 50176)


def test_colours_hold_rescaling_and_normalising(model: Path) -> None:
    """A factor other than 1/255, and pixels that are not normalised, are worked into mean and deviation."""
    images = model / "preprocessor_config.json"
    edit(images, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 2.0])
    assert settings(model).colours.mean == (0.1, 0.2, 0.3)
    edit(images, rescale_factor=2 / 255)
    assert settings(model).colours.mean == pytest.approx((0.05, 0.1, 0.15))
    assert settings(model).colours.std == pytest.approx((0.25, 0.125, 1.0))
    edit(images, do_normalize=False, rescale_factor=1 / 255)
    assert settings(model).colours.mean == (0.0, 0.0, 0.0)
    assert settings(model).colours.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("internvl", "config.json", {"image_token_id": [1]}, "`image_token_id`: expected a whole number"),
        (
            "internvl",
            "config.json",
            {"image_seq_length": 0},
            "`image_seq_length`: expected a whole number of at least 1",
        ),
        ("internvl", "config.json", {"vision_config": {"patch_size": 0}}, "patch_size`: expected a whole number"),
        (
            "internvl",
            "config.json",
            {"vision_config": {"patch_size": ["x", "x"]}},
            "patch_size`: expected whole numbers",
        ),
        ("gemma3", "config.json", {"image_token_id": "x"}, "`image_token_id`: expected a whole number"),
        ("gemma3", "config.json", {"mm_tokens_per_image": 0}, "`mm_tokens_per_image`: expected a whole number"),
        ("gemma3", "config.json", {"vision_config": {"patch_size": "a"}}, "patch_size`: expected a whole number"),
        ("gemma3", "processor_config.json", {"image_seq_length": "x"}, "processor_config.json: `image_seq_length`"),
    ],
)
def test_a_number_that_is_none_is_named(
    tmp_path: Path, name: str, file: str, changes: dict[str, Any], message: str
) -> None:
    """Of the families whose tokens a picture are counted by the files."""
    directory = make_family(name, tmp_path / "m").directory
    edit(directory / file, **changes)
    with pytest.raises(ConfigError, match=message):
        settled(directory)


def test_null_means_off_or_missing_and_never_the_default(model: Path) -> None:
    """As in transformers: a step whose key is null is not done, and a number that is null is not there."""
    images = model / "preprocessor_config.json"
    values = json.loads(images.read_text())

    def colours(**changes: Any) -> Any:
        images.write_text(json.dumps({**values, **changes}))
        return settings(model).colours

    assert colours(do_rescale=None) == colours(do_rescale=False) == colours(do_rescale=0) != colours()
    assert colours(do_normalize=None) == colours(do_normalize=False) != colours()
    for key in ("resample", "image_mean", "rescale_factor", "patch_size", "do_resize"):
        with pytest.raises(ConfigError, match=rf"image processor: `{key}`: expected .*, got None"):
            colours(**{key: None})


def test_a_videos_settings_are_those_of_transformers(model: Path) -> None:
    """Its own file's, else those of images; pixels and limits may differ from images, patches may not."""
    images, videos = model / "preprocessor_config.json", model / "video_preprocessor_config.json"
    edit(images, size={"shortest_edge": 5000, "longest_edge": 90000}, resample=2)
    assert (settings(model).video_min_pixels, settings(model).video_max_pixels) == (5000, 90000)
    assert settings(model).video_filter == "bilinear"
    form = {"size": {"shortest_edge": 6000, "longest_edge": 80000}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    videos.write_text(json.dumps({**form, "resample": 3, "cap_pixels_per_frame": True}))
    made = settled(model).make_layout()
    found = settings(model)
    assert (found.video_min_pixels, found.video_max_pixels, found.video_filter) == (6000, 80000, "bicubic")
    assert (found.video_colours.std, found.filter, found.max_pixels) == ((0.25,) * 3, "bilinear", 90000)
    ways = {entry.name: entry.normalise for entry in made.schema}
    assert ways["pixel_values_videos"] != ways["pixel_values"]
    assert found.video_capped
    for key in ("patch_size", "merge_size", "temporal_patch_size", "max_video_tokens"):
        edit(videos, **{key: 3})
        with pytest.raises(ConfigError, match=rf"video processor: `{key}`: expected \d+, got 3"):
            settled(model)
        edit(videos, **{key: None})


@pytest.mark.parametrize("name", ["internvl", "gemma3"])
@pytest.mark.parametrize(
    "size",
    [{"shortest_edge": 56}, {"height": 56}, {"longest_edge": 56}, {"max_height": 56, "max_width": 56}, {}, [56, 56]],
)
def test_a_size_that_keeps_the_shape_is_refused_where_pictures_are_square(
    tmp_path: Path, name: str, size: object
) -> None:
    """transformers would make pictures of other sizes of it, or fail."""
    directory = make_family(name, tmp_path / "m").directory
    (directory / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    (directory / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="`size`: expected one number for height and width"):
        settled(directory)


def test_the_chat_template_lies_in_one_of_four_places(model: Path) -> None:
    """A file of Jinja first, then JSON files that hold it, then the tokenizer's configuration."""
    jinja = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"`chat_template`: model model has none: expected chat_template.jinja"):
        settled(model)
    for name, value in (
        ("tokenizer_config.json", jinja),
        ("tokenizer_config.json", [{"name": "tool_use", "template": "x"}, {"name": "default", "template": jinja}]),
        ("chat_template.json", jinja),
        ("processor_config.json", jinja),
    ):
        path = model / name
        if not path.exists():
            path.write_text("{}")
        edit(path, chat_template=value)
        assert open_model("model", model.parent).template == jinja
        edit(path, chat_template=None)
    (model / "other.jinja").write_text(jinja.replace("You are a helpful assistant.", "Be brief."))
    other = settings(model, chat_template="model/other.jinja").text.template
    assert other != jinja


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": None}, "config.json lacks `model_type`"),
        ("config.json", {"model_type": "llama"}, "has `model_type` 'llama', for which there is no layout"),
        ("config.json", {"image_token_id": None}, "config.json lacks `image_token_id`"),
        ("config.json", {"image_token_id": "x"}, "`image_token_id`: expected a whole number of at least 0, got 'x'"),
        ("config.json", {"vision_config": {"tokens_per_second": "a"}}, "tokens_per_second`: expected a whole number"),
        ("preprocessor_config.json", {"patch_size": "large"}, "`patch_size`: expected a whole number"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, "`image_mean`: expected three numbers"),
        ("preprocessor_config.json", {"resample": 0}, "`resample`: expected 1"),
        ("preprocessor_config.json", {"do_resize": False}, "`do_resize`: expected true"),
        ("preprocessor_config.json", {"temporal_patch_size": 4}, "`temporal_patch_size`: expected 2"),
        ("preprocessor_config.json", {"resample": [3]}, "`resample`: expected 1"),
        ("preprocessor_config.json", {"do_resize": 0}, "`do_resize`: expected true"),
        ("preprocessor_config.json", {"rescale_factor": 0}, "`rescale_factor`: expected a number other than 0"),
        ("preprocessor_config.json", {"rescale_factor": "a"}, "`rescale_factor`: expected a number other than 0"),
        ("preprocessor_config.json", {"image_mean": [0, 0, float("nan")]}, "`image_mean`: expected three numbers"),
        ("preprocessor_config.json", {"size": {"height": 84, "width": 84}}, "`size`: expected `shortest_edge`"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 3136}}, "`size`: expected `longest_edge`"),
        ("preprocessor_config.json", {"size": 224}, "`size`: expected `shortest_edge`"),
        ("preprocessor_config.json", {"min_pixels": "a"}, "`min_pixels`: expected a whole number of pixels"),
        ("preprocessor_config.json", {"min_pixels": 3136.5}, "`min_pixels`: expected a whole number of pixels"),
    ],
)
def test_what_a_directory_lacks_is_named(model: Path, file: str, changes: dict[str, Any], message: str) -> None:
    """One line: the file, the key, and what would do."""
    edit(model / file, **changes)
    with pytest.raises(ConfigError, match=message):
        settled(model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json: expected JSON"),
        ("config.json", b"[]", "config.json: expected a JSON object, got list"),
        ("config.json", b"\xff\xfe", "config.json: expected UTF-8"),
    ],
)
def test_damaged_files_are_named(model: Path, name: str, content: bytes, message: str) -> None:
    """A file that is no JSON object says so."""
    (model / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        settled(model)


def test_a_missing_file_is_named(model: Path) -> None:
    """Without pixel settings there is no layout to make."""
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no preprocessor_config.json, and no `image_processor`"):
        settled(model)
    (model / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config.json; save it again"):
        settled(model)


def test_a_tokenizer_of_another_model_is_refused(model: Path) -> None:
    """Its ids are not those of config.json."""
    from owl_stream.assemble import load_tokenizer

    config = json.loads((model / "config.json").read_text())
    edit(model / "config.json", image_token_id=config["image_token_id"] + 1)
    recipe = settled(model)
    with pytest.raises(ConfigError, match=r"expected <\|image_pad\|> to be token \d+, as the model's config.json says"):
        load_tokenizer(recipe.tokenizer, model.parent, recipe.make_layout().tokens)


def test_no_model_of_that_name_says_what_to_do(tmp_path: Path) -> None:
    """Neither a directory nor a hub id."""
    with pytest.raises(ConfigError, match=r"model not found: expected a directory or a hub id \(org/name\)"):
        open_model("nowhere", tmp_path)
