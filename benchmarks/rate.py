"""Tokens per second of one epoch of LoRA training, in a fresh process; also with another checkout in PYTHONPATH.

python benchmarks/rate.py MODEL DATA ROWS TOKENS_PER_STEP [bf16] [look-at-load]
"""

import sys
import warnings
from pathlib import Path


def main(model: str, data: str, rows: int, tokens_per_step: int, flags: list[str]) -> None:
    warnings.filterwarnings("ignore")
    if "look-at-load" in flags:
        from continual import threads

        threads.sleep_while_waiting()
    from benchmarks import loops, texts
    from continual.model import add_adapter, load_model, load_tokenizer

    if "look-at-load" in flags:
        print(threads.fit_to_load() or "all threads", file=sys.stderr)
    pairs = texts.pairs(Path(data) if data else None, load_tokenizer(model), rows)
    tokens = sum(len(pair.ids) for pair in pairs)
    setting = loops.Setting(pairs, max(1, round(tokens_per_step * len(pairs) / tokens)))
    adapter = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    student = add_adapter(load_model(model, "float32"), adapter, 0)
    taken = loops.ours(student, setting, bf16="bf16" in flags)
    print(tokens / taken.seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
