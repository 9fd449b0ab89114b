"""The files of a Qwen2.5-VL model, without its weights, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path

TOKENS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
TEMPLATE = """\
{%- for message in messages -%}
    <|im_start|>{{ message.role ~ '\\n' }}
    {%- if message.content is string -%}
        {{ message.content }}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
            {%- else -%}{{ part.text }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def write_model(directory: Path, tokenizer: Path) -> None:
    """Write a model's directory, with the released pixel settings and this tokenizer; later runs find it."""
    made_of = directory / "made-of-tokenizer.json"
    if (directory / "config.json").exists() and made_of.exists() and made_of.read_bytes() == tokenizer.read_bytes():
        return
    import transformers as hf  # noqa: PLC0415 # it takes seconds, and most runs need it not

    vocabulary = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    vocabulary.add_special_tokens({"additional_special_tokens": list(TOKENS.values())})
    ids = {name: vocabulary.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    images = hf.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    for part in (vocabulary, images, hf.Qwen2_5_VLConfig(**ids)):
        part.save_pretrained(directory)
    made_of.write_bytes(tokenizer.read_bytes())
