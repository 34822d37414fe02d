"""The run folder: the resolved config, the evidence (Parquet), report.json and the figures. No pickle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from safetensors import SafetensorError

from hf_mia.audits.experiment import mapping
from hf_mia.audits.plan import Experiment
from hf_mia.audits.played import Played, Scene, report_json, write_json
from hf_mia.core import Evidence
from hf_mia.reports.estimates import Estimate
from hf_mia.reports.figures import curve_figure, roc_figure, scores_figure
from hf_mia.storage.keys import WAY_OUT, content_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.json"
LONGEST = 200  # bytes of a file's name; most disks take 255


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A place to write a run to: once it is whole there, and not before, it takes the place of what `folder` holds.

    The report comes last, so that what stands beside one belongs to it. OSError where the disk is full: what stood in
    the folder before is then as it was.
    """
    place = folder / ".unfinished"
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        yield place
    except (OSError, SafetensorError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise OSError(f"cannot write the run to {folder} ({error}): {WAY_OUT}") from error
    (folder / REPORT).unlink(missing_ok=True)
    for new in sorted(place.iterdir(), key=lambda path: path.name == REPORT):
        if (old := folder / new.name).is_dir():
            shutil.rmtree(old)
        new.replace(old)
    place.rmdir()


def write_folder(folder: Path, experiment: Experiment, played: Played) -> None:
    """Write all of a run; what stood there under the same names is replaced, each file whole."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(mapping(experiment), sort_keys=False), encoding="utf-8")
    for name, (target, shadows) in played.evidence.items():
        place = folder / "evidence" / file_name(name)
        place.mkdir(parents=True, exist_ok=True)
        for stale in place.glob("*.parquet"):  # of a run with more shadows
            stale.unlink()
        write_evidence(target, place / "target.parquet")
        for number, shadow in enumerate(shadows, 1):
            write_evidence(shadow, place / f"shadow-{number:03d}.parquet")
    _write_exposures(folder / "exposed", played)
    _write_figures(folder / "figures", experiment, played)
    write_json(report_json(experiment, played), folder / REPORT)


def _write_exposures(folder: Path, played: Played) -> None:
    """For each attack a table of its units, the most exposed first."""
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    for name in played.reports:
        pq.write_table(played.exposures(name), folder / f"{file_name(name)}.parquet", compression="zstd")


def file_name(name: str) -> str:
    """What a file or a folder is called after an attack or a table: its name, cut where a disk takes no longer one."""
    safe = name.replace("/", "-")
    return safe if len(safe.encode()) <= LONGEST else f"{safe[: LONGEST // 4]} {content_key([name])}"


def write_evidence(evidence: Evidence, path: Path) -> None:
    """One row a unit: name, membership (null: unknown), features, group if any; references in files beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    units, width = evidence.features.shape
    ends = pa.array(np.arange(units + 1) * width, pa.int32())
    features = pa.ListArray.from_arrays(ends, evidence.features.astype(np.float64, copy=False).ravel())
    member = pa.array(evidence.member, mask=np.isnan(evidence.member))
    columns = {"unit": pa.array(evidence.names, pa.string()), "member": member, "features": features}
    columns |= {} if evidence.group is None else {"group": evidence.group}
    pq.write_table(pa.table(columns), path, compression="zstd")
    for number, reference in enumerate(evidence.references, 1):
        write_evidence(reference, path.with_suffix(f".reference-{number:03d}.parquet"))


def read_evidence(path: Path) -> Evidence:
    """The evidence that a run folder holds, with the references that stand beside it; the files are mapped."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, memory_map=True)
    lists = table["features"].combine_chunks()
    sizes = np.diff(lists.offsets.to_numpy())
    if len(sizes) == 0 or lists.null_count or sizes.min() != sizes.max():
        raise ValueError(f"{path} must hold as many features of each unit, but holds {np.unique(sizes)[:5].tolist()}.")
    features = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(sizes), -1)
    member = table["member"].fill_null(float("nan")).to_numpy()
    beside = sorted(path.parent.glob(f"{path.stem}.reference-*.parquet"))
    references = tuple(read_evidence(reference) for reference in beside)
    group = table["group"].to_numpy() if "group" in table.column_names else None
    return Evidence(features, member, tuple(table["unit"].to_pylist()), references, group)


def _write_figures(folder: Path, experiment: Experiment, played: Played) -> None:
    figures = {"roc": roc_figure([*played.reports.values(), played.control]), "scores": scores_figure(played.headline)}
    figures |= played.portrait.figures
    for title, rows in played.sweeps.items():
        sweep = experiment.sweeps[title]
        drawn = [i for i, value in enumerate(sweep.values) if isinstance(value, (int, float))]
        if len(drawn) > 1:
            x = [float(sweep.values[i] or 0) for i in drawn]
            series = {name: [row[i].auc for i in drawn] for name, row in rows.items()}
            figures[f"sweep-{title}"] = curve_figure(x, series, sweep.field, "AUC", logx=max(x) > 20 * min(x) > 0)
    if "early stopping" in played.scenes:
        figures["early-stopping"] = _stopping_figure(played.scenes["early stopping"])
    for name, figure in figures.items():
        figure.savefig(folder / f"{file_name(name)}.png", dpi=150)


def _stopping_figure(scene: Scene) -> Figure:
    """Each attack's accuracy, or AUC where it has no threshold, and the probe's accuracy, against epochs."""
    names = next(iter(scene.reports.values()))
    series = {}
    for name in names:
        reports = [reports[name] for reports in scene.reports.values()]
        decided = all(report.threshold is not None for report in reports)
        series[f"{name}: {'accuracy' if decided else 'AUC'}"] = [r.accuracy if decided else r.auc for r in reports]
    if scene.utility:
        series["kNN probe: accuracy"] = [Estimate(scene.utility.get(epoch)) for epoch in scene.reports]
    return curve_figure([float(epoch) for epoch in scene.reports], series, "epochs of training", "attack and probe")
