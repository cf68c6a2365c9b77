"""Compares translation runs with rules that need no learning, on the test patients of the first run. Prints Markdown.

    python scripts/translation_table.py RUN ...

`identity` shows the CT as it is. `histogram` uses what a translator cannot know, the tissue of each pixel of the
training MR. It gives each pixel the MR value of the same rank within the tissue that the pixel's HU suggest.
"""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import positions, whole
from fedjax_mri.run import restore, runfolder
from fedjax_mri.run.line import named
from fedjax_mri.tasks import translation
from fedjax_mri.tasks.biophysics import DISTINGUISHED, memberships
from fedjax_mri.tasks.intensities import Images, Window, displayed
from fedjax_mri.tasks.task import Batch, Model

TEST = "unseen sites"
SHOWN = {
    "mae": "MAE",
    "rmse": "RMSE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "frechet": "Frechet",
    "error in white matter": "error, white",
    "error in csf": "error, CSF",
    "error in cortical bone": "error, bone",
    "contrast kept": "lesion contrast kept",
    "hallucination rate": "hallucinated",
}
SAMPLE = 200  # training patients whose histograms are matched
RANKS = np.linspace(0, 1, 65)


def main() -> None:
    runs = [pathlib.Path(word) for word in sys.argv[1:]]
    config = runfolder.read_config(runs[0])
    source = getattr(config.data, "source", config.data)  # paired, so that an MR comes with its own tissues
    federation, window = source.build(config.seed), config.task.window
    test = everyone(federation.tests[TEST].data)
    found = {"identity": baseline(window, test, displayed(window, "ct", test["ct"]))}
    found["histogram"] = baseline(window, test, matched(everyone(federation.train, SAMPLE), test["ct"]))
    for run in runs:
        best = (run / "best").is_dir()
        figures = named(restore.evaluate_run(run, None, lambda line: None, best)[TEST])
        found[runfolder.read_config(run).name] = figures
    print(f"CT to MR, {len(test['ct'])} patients of {TEST} (synthetic)\n")
    print("| | " + " | ".join(SHOWN.values()) + " |\n|---|" + "---|" * len(SHOWN))
    for name, figures in found.items():
        print(f"| {name} | " + " | ".join(f"{figures.get(f'mr/{key}', float('nan')):.3f}" for key in SHOWN) + " |")


def everyone(data: ClientData, most: int = 10**6) -> Batch:
    """All examples, or `most` of them spread evenly, as one batch."""
    client, index = positions(data.sizes)
    chosen = np.linspace(0, len(client) - 1, min(most, len(client))).astype(int)

    def one(store: Any, client: jax.Array, index: jax.Array) -> Batch:
        return jax.tree.map(lambda x: x[0], data.read(store, client, index[None]))

    batch = jax.jit(jax.vmap(one, (None, 0, 0)))(whole(data), client[chosen], index[chosen])
    return {**batch, "weight": jnp.ones(len(chosen), jnp.float32)}


def baseline(window: Window, test: Batch, made: jax.Array) -> dict[str, float]:
    """The figures of MR in 0..1 that a rule has made of the test patients' CT."""

    def translate(params: Any, carry: Any, images: Images, key: Any) -> Images:
        return {"mr": 2 * params - 1}  # an argument, so that the compiler does not treat it as a constant

    nothing = lambda key: Model({}, {})  # noqa: E731
    method = translation.TranslationMethod(nothing, (), lambda *_: {}, translate, ("mr",), "")
    task = translation.task(window, "average", Augment(), method)
    return task.summary(jax.jit(task.evaluate)(made, {}, test))


def matched(train: Batch, hu: jax.Array) -> jax.Array:
    """MR of CT by ranks within tissues; CT of one half of the training patients, MR and its tissues of the other."""
    half = len(train["ct"]) // 2
    ct, mr, known = train["ct"][:half], train["mr"][half:], train["tissue"][half:][..., DISTINGUISHED]
    true = np.where(known.sum(-1) > 0.5, known.argmax(-1), -1)  # without tumours
    seen, which = tissue_of(ct), tissue_of(hu)[..., None]
    made = jnp.zeros_like(hu)
    for t in range(len(DISTINGUISHED)):
        x, y = (
            jnp.asarray(np.quantile(pick(*pair), RANKS), jnp.float32) for pair in ((ct, seen == t), (mr, true == t))
        )
        made = jnp.where(which == t, jnp.interp(hu, x, y), made)
    return made


def tissue_of(hu: jax.Array) -> np.ndarray:
    """The likeliest of the tissues that HU tell apart, [B, H, W]."""
    return np.asarray(jnp.argmax(memberships(hu), -1))


def pick(images: jax.Array, where: np.ndarray) -> np.ndarray:
    """Values [B, H, W, 1] where `where` [B, H, W]; a 0 where that is nowhere."""
    values = np.asarray(images)[..., 0][where]
    return values if len(values) else np.zeros(1)


if __name__ == "__main__":
    main()
