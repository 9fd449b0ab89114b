"""Fine-tune a vision-language model with TRL's SFTTrainer. Killed, it goes on, on any number of ranks.

torchrun --nproc-per-node 2 examples/trl_sft.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints
"""

from __future__ import annotations

import torch
from arguments import parse
from transformers import AutoModelForImageTextToText, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from owl_client import OwlStreamDataset
from owl_client.hf import OwlStreamMixin, newest_checkpoint


class OwlSFT(OwlStreamMixin, SFTTrainer):
    """The trainer, fed by owl-stream."""


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    gpu = torch.cuda.is_available()
    dataset = OwlStreamDataset(args.url, args.dataset, micro_batch_size=args.micro_batch_size)
    settings = SFTConfig(
        output_dir=str(args.checkpoints),
        per_device_train_batch_size=args.micro_batch_size,
        gradient_accumulation_steps=dataset.micros_per_step,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        ignore_data_skip=True,
        save_steps=args.save_every,
        save_total_limit=2,
        logging_steps=1,
        ddp_find_unused_parameters=True,
        bf16=gpu,
        use_cpu=not gpu,
        report_to=[],
    )
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    trainer = OwlSFT(model, settings, train_dataset=dataset, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=newest_checkpoint(args.checkpoints))


if __name__ == "__main__":
    main()
