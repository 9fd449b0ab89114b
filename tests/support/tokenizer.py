"""A byte-level BPE of a few hundred tokens, so that tests need neither the network nor a real vocabulary."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CORPUS = (
    "system\nuser\nassistant\n<|image|><|image|>",
    "What is in this image? A cat sits on the mat.",
    "Describe the picture. An astronaut in an orange suit.",
    "Cut to 2 rows 2 columns with a global view\nsubimg(0,0)<|image|> subimg(0,1)<|image|>\nglobal_view<|image|>",
    "Was ist auf dem Bild? Eine Katze. Que voit-on? Un chat. 猫がいます。",
)


def small_tokenizer(path: Path, vocab_size: int = 400) -> Path:
    """Train on five sentences and write a `tokenizers` file at `path`; every byte has a token, so nothing is unknown.

    Like the Qwen2 vocabulary it has the three special tokens and spells `<|image|>` with several ordinary ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path
