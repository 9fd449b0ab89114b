"""Fine-tune with LLaMA-Factory's own YAML, on batches of owl-stream. Nothing of LLaMA-Factory is patched.

    torchrun --nproc-per-node 2 examples/llama_factory.py http://loader:8000 sft.yaml

LLaMA-Factory reads the YAML and loads the model as it says. `dataset` is the name of the dataset on the server, and
`eval_dataset` that of another one. The server's `model` is the YAML's `model_name_or_path`. Started again, it goes on
from the newest checkpoint in `output_dir`. `docs/trainers.md` says what changes in the YAML.
"""

from __future__ import annotations

import sys
from typing import Any

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.callbacks import LogCallback
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers.trainer_utils import get_last_checkpoint

from owl_client import OwlStreamDataset
from owl_client.hf import OwlStreamMixin, newest_checkpoint

REFUSED = {
    "the server makes the rows: see its configuration": (
        *("packing", "neat_packing", "train_on_prompt", "mask_history", "streaming", "max_samples", "val_size"),
        *("interleave_probs", "tokenized_path", "tool_format", "default_system", "new_special_tokens_config"),
        *("add_tokens", "add_special_tokens", "resize_vocab", "disable_shuffling"),
    ),
    "it has no place in this script, which trains by CustomSeq2SeqTrainer and OwlStreamMixin's loss": (
        *("predict_with_generate", "do_predict", "compute_accuracy", "use_asft_loss", "use_mca", "use_hyper_parallel"),
        *(
            "use_kt",
            "use_unsloth",
            "pissa_convert",
            "use_swanlab",
            "early_stopping_steps",
            "plot_loss",
            "profile_modules",
        ),
        *("enable_torch_profiler", "include_effective_tokens_per_second", "shift_attn"),
    ),
}
"""Settings that would do nothing here or harm, and why."""


class OwlTrainer(OwlStreamMixin, CustomSeq2SeqTrainer):
    """LLaMA-Factory's trainer, on whole batches."""


def main(url: str) -> None:
    """Train as the YAML says that the command line names."""
    model_args, data_args, training_args, finetuning_args, _ = get_train_args()
    check(model_args, data_args, training_args, finetuning_args)
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    get_template_and_fix_tokenizer(tokenizer, data_args)
    model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    dataset = OwlStreamDataset(url, data_args.dataset[0], micro_batch_size=training_args.per_device_train_batch_size)
    evaluated = None
    if data_args.eval_dataset:
        rows = training_args.per_device_eval_batch_size
        evaluated = OwlStreamDataset(url, data_args.eval_dataset[0], micro_batch_size=rows, evaluate=True)
    trainer = OwlTrainer(
        model=model,
        args=training_args,
        finetuning_args=finetuning_args,
        train_dataset=dataset,
        eval_dataset=evaluated,
        callbacks=[LogCallback()],
        **tokenizer_module,
    )
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint and checkpoint == get_last_checkpoint(
        training_args.output_dir
    ):  # which may have been killed half-way
        checkpoint = newest_checkpoint(training_args.output_dir)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


def check(*arguments: Any) -> None:
    """Refuse settings that would do something else than they say."""
    _, data_args, training_args, finetuning_args = arguments
    if finetuning_args.stage != "sft" or not training_args.do_train:
        sys.exit("expected stage: sft and do_train: true")
    if len(data_args.dataset) > 1 or len(data_args.eval_dataset or ()) > 1:
        sys.exit("dataset, eval_dataset: expected one name each: the server mixes datasets, see its configuration")
    for why, names in REFUSED.items():
        for name in names:
            if any(getattr(part, name, None) for part in arguments):
                sys.exit(f"{name}: expected none: {why}; leave it out")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: torchrun examples/llama_factory.py URL YAML [SETTING=VALUE ...]")
    main(sys.argv.pop(1))
