"""Compares tumour detection on real and on translated images (system E): what a classifier loses on MR made from CT.

    python scripts/detection_on_translated.py TRANSLATION CLASSIFIER

Both are folders of runs. Patients are those of the translation's first test set. Neither run has seen them if both
trained on the phantom with the same seed and the same `sites`. The table has a row for the real MR, a row for the MR
made from the patient's CT and, if the translator works both ways, a row for MR made from CT that was made from the MR.
Prints Markdown.
"""

import argparse
import contextlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from translation_table import everyone

from fedjax_mri.convert.translate import Translator, translate
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Source
from fedjax_mri.metrics import classification, image
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.run import restore, runfolder
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.models import global_model
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.intensities import displayed
from fedjax_mri.tasks.task import Batch

HEALTHY = "no tumour"  # the class of patients without a tumour
CHUNK = 64  # images that a network gets at once
Images = dict[str, np.ndarray]  # modality -> [n, H, W, 1], CT in HU, MR in 0..1


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("translation", type=pathlib.Path)
    words.add_argument("classifier", type=pathlib.Path)
    try:
        print(report(**vars(words.parse_args())))
    except UserError as error:
        sys.exit(f"error: {error}")


def report(translation: pathlib.Path, classifier: pathlib.Path) -> str:
    """Returns both tables. Raises UserError if the two runs do not fit each other."""
    config, detector, translators = runfolder.read_config(translation), restore.restore(classifier), both(translation)
    batch, classes = patients(config)
    check_same_data(detector, translators["mr"], classes)
    made = translated(translators["mr"], "mr", batch["ct"])
    back = reconstructed(translators, made, batch) if "ct" in translators else {}
    rows = {"real MR": batch["mr"], "MR made of CT": made} | ({"MR from cycle": back["mr"]} if back else {})
    healthy = classes.index(HEALTHY)
    found = {name: figures(*predicted(detector, mr, batch["label"]), healthy) for name, mr in rows.items()}
    found["drop"] = {name: value - found["MR made of CT"][name] for name, value in found["real MR"].items()}
    title = f"{len(made)} patients of the translation's test sites" + (" (synthetic)" if "tissue" in batch else "")
    tables = [table(title, found)]
    if back:
        window = translators["mr"].window
        pairs = {to: (displayed(window, to, batch[to]), displayed(window, to, back[to])) for to in back}
        similarities = {to.upper(): similarity(*pair) for to, pair in pairs.items()}
        tables.append(table("originals and their cycle reconstructions, in 0..1", similarities))
    return "\n\n".join(tables)


def both(run: pathlib.Path) -> dict[str, Translator]:
    """Returns a run's translators by the modality they make; one to CT only if the run works both ways."""
    found = {"mr": translate(run, "mr")}
    with contextlib.suppress(UserError):
        found["ct"] = translate(run, "ct")
    return found


def patients(config: Experiment) -> tuple[Batch, tuple[str, ...]]:
    """Paired test patients of a translation, and the names of their classes."""
    source: Source = config.data
    federation = source.build(config.seed)
    return everyone(next(iter(federation.tests.values())).data), federation.classes


def check_same_data(detector: Restored, translator: Translator, classes: tuple[str, ...]) -> None:
    """Raises UserError where the classifier knows other classes or other images than the translator makes."""
    known, seen, made = detector.described.classes, detector.described.image, translator.image
    if known != classes or HEALTHY not in known:
        raise UserError(f"the classifier knows {', '.join(known)}, the patients are of {', '.join(classes)}")
    if seen != made:
        raise UserError(f"the classifier sees images of {seen}, the translator makes {made}: train both at one size")


def translated(translator: Translator, to: str, given: jax.Array) -> np.ndarray:
    """Images [n, H, W, 1] in the other modality."""
    parts = np.array_split(np.asarray(given), -(-len(given) // CHUNK))
    return np.concatenate([translator.draw(to, part, None) for part in parts])


def reconstructed(translators: dict[str, Translator], made: np.ndarray, batch: Batch) -> Images:
    """The CT of the MR made of CT, and the MR of the CT made of MR."""
    ct = translated(translators["ct"], "ct", batch["mr"])
    return {"ct": translated(translators["ct"], "ct", made), "mr": translated(translators["mr"], "mr", ct)}


def predicted(detector: Restored, mr: np.ndarray, labels: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, C] that a classifier gives MR [n, H, W, 1], and the labels [n]."""
    model = global_model(detector)

    @jax.jit
    def predict(x: jax.Array) -> jax.Array:
        return detector.task.predict(model.params, model.carry, {"image": x, "weight": jnp.ones(len(x))})

    parts = np.array_split(np.asarray(mr, np.float32), -(-len(mr) // CHUNK))
    return np.concatenate([np.asarray(predict(part)) for part in parts]), np.asarray(labels)


def figures(probabilities: np.ndarray, labels: np.ndarray, healthy: int) -> dict[str, float]:
    """Returns accuracy, macro F1 and AUC over all classes, and the figures of tumour against none."""
    classes, tumour = tallied(probabilities, labels), 1 - probabilities[:, healthy]
    two = tallied(np.stack([1 - tumour, tumour], -1), (labels != healthy).astype(np.int32))
    specificity, sensitivity = classification.recall(two)
    return {
        "accuracy": float(classification.accuracy(classes)),
        "macro-F1": float(classification.macro(classification.f1(classes))),
        "macro-AUC": classification.macro_auc(probabilities, labels),
        "tumour: accuracy": float(classification.accuracy(two)),
        "sensitivity": float(sensitivity),
        "specificity": float(specificity),
        "precision": float(classification.precision(two)[1]),
        "F1": float(classification.f1(two)[1]),
        "AUC": classification.roc_auc(tumour, labels != healthy),
    }


def tallied(probabilities: np.ndarray, labels: np.ndarray) -> Tally:
    logits = jnp.log(jnp.maximum(jnp.asarray(probabilities, jnp.float32), 1e-30))
    return classification.tally(logits, jnp.asarray(labels, jnp.int32), jnp.ones(len(labels)))


def similarity(x: jax.Array, y: jax.Array) -> dict[str, float]:
    """Mean squared error and cosine similarity of images in 0..1, means over patients."""
    return {"MSE": float(image.mse(x, y).mean()), "cosine similarity": float(image.cosine(x, y).mean())}


def table(title: str, rows: dict[str, dict[str, float]]) -> str:
    """Returns a Markdown table with a row for each name."""
    names = list(next(iter(rows.values())))
    lines = [f"| {name} | " + " | ".join(f"{row[key]:.4f}" for key in names) + " |" for name, row in rows.items()]
    return "\n".join([title, "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *lines])


if __name__ == "__main__":
    main()
