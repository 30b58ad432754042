"""Texts of many lengths in one batch, against as many texts of the longest length.

On Gemma 3 270M: sixteen texts of sixteen lengths, padded on the left as its tokenizer
pads, in a spliced run of the model's own call and in ``sweep_k``. What padding costs
beyond its columns (a mask, moving rows, leaving padding alone) is what is measured.
"""

from typing import Any

import torch

import sae_lens_ext as sle
from benchmarks.measure import Mismatch, ratio, side_by_side, typical
from benchmarks.splice import SITE, random_sae
from sae_lens_ext.hosts import capture, host_for

ROWS = 16
LONGEST = 128
SCORED = slice(None, None, 8)
KS = [4, 16]


def run() -> dict[str, float]:
    """Print the table; returns its numbers."""
    model = sle.load_bundled(progress=False)
    host = host_for(model)
    site = host.site(SITE)
    padded, full = _batches(host.d_vocab or 0)

    with torch.no_grad():
        ids = full["input_ids"]
        x = capture(host, ids, [site])[site]
        sae = random_sae(x.shape[-1], x)
        _check(model, sae, padded)

        def spliced(batch: dict[str, torch.Tensor]) -> Any:
            with sle.splice(model, sae, k=16):
                return model(batch["input_ids"], attention_mask=batch["attention_mask"])

        def swept(batch: dict[str, torch.Tensor]) -> Any:
            return sle.sweep_k(model, batch, sae, KS, score=SCORED, progress=False)

        times = side_by_side(
            {
                "spliced": lambda: spliced(full),
                "spliced_padded": lambda: spliced(padded),
                "swept": lambda: swept(full),
                "swept_padded": lambda: swept(padded),
            },
            rounds=5,
        )

    seconds = {name: typical(times, name) for name in times}
    ratios = {
        "spliced_ratio": ratio(times, "spliced_padded", "spliced"),
        "swept_ratio": ratio(times, "swept_padded", "swept"),
    }
    print(
        f"{ROWS} texts of {LONGEST // ROWS} to {LONGEST} tokens at {SITE} of Gemma 3 "
        f"270M, against {ROWS} of {LONGEST}, float32; medians"
    )
    for name in ("spliced", "swept"):
        print(
            f"{name:>10}: {seconds[name]:6.2f} s, padded "
            f"{seconds[f'{name}_padded']:6.2f} s, ratio {ratios[f'{name}_ratio']:.3f}"
        )
    return {**seconds, **ratios}


def _batches(
    d_vocab: int,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A tokenizer's output for texts of all lengths, and for texts of one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, d_vocab, (ROWS, LONGEST), generator=generator)
    lengths = torch.arange(1, ROWS + 1) * (LONGEST // ROWS)
    columns = torch.arange(LONGEST)
    mask = (columns >= LONGEST - lengths.unsqueeze(1)).long()
    full = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"input_ids": ids * mask, "attention_mask": mask}, full


def _check(model: Any, sae: sle.SAE, padded: dict[str, torch.Tensor]) -> None:
    """Check that the padded batch gives what a text of it gives alone.

    Raises:
        Mismatch: it does not.
    """
    mask = padded["attention_mask"].bool()
    run = sle.Run.capture(model, padded, sae, k=16, positions="all")
    for row in (0, ROWS - 1):
        text = padded["input_ids"][row, mask[row]]
        alone = sle.Run.capture(model, text, sae, k=16, positions="all")
        together = run.codes[SITE].values[row, mask[row]]
        difference = (together - alone.codes[SITE].values[0]).abs().max()
        if not difference < 1e-2 * together.max():
            raise Mismatch("codes of a padded text are not its own; not timed")
