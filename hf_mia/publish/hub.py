"""Audits on the Hub: a model card's section as a pull request, a run folder as a dataset. Writes only when asked."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import yaml

from hf_mia.audits.folder import file_name
from hf_mia.publish.card import FIGURE, decoded, section, updated, with_section
from hf_mia.publish.outcome import Outcome, read_outcome
from hf_mia.publish.published import published, reduced
from hf_mia.storage.foreign import inside

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)

LARGEST = 2 * 2**30  # bytes of a fetched run, and of its evidence unpacked
IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MOST = 20_000  # files of a repository that is fetched from
AGAIN = "A commit is whole or absent, and nothing was changed here: run the same command again."


def push_card(outcome: Outcome, repo_id: str, create_pr: bool = True) -> str:
    """Write an audit to the card of a model on the Hub, the ROC figure beside it; the pull request's or commit's URL.

    Everything goes in one commit on top of the card that was read. ValueError for a card that cannot be updated,
    OSError as in `hub_errors`; in both cases nothing is changed, here or there.
    """
    api = _writing()
    with hub_errors(repo_id):
        head = api.repo_info(repo_id).sha
        before = _readme(api, repo_id, "model", head)
        try:
            text = updated(before, outcome, repo_id.split("/")[-1])
        except ValueError as error:
            raise ValueError(f"the card of {repo_id}: {error} Nothing was written.") from error
        if text == before:
            return f"The card of {repo_id} says so already."
        added = {"README.md": text.encode("utf-8")}
        if (figure := outcome.folder / "figures" / "roc.png").is_file():
            added[FIGURE] = inside(outcome.folder, figure, LARGEST).read_bytes()
        message = "Add a membership inference audit to the model card"
        made = api.create_commit(
            repo_id, _additions(added), commit_message=message, create_pr=create_pr, parent_commit=head
        )
    return made.pr_url or str(made.commit_url)


def push_run(folder: Path, repo_id: str, private: bool = True, create_pr: bool = False) -> str:
    """Put a run folder on the Hub as a dataset, in one commit; the pull request's or commit's URL.

    Evidence, exposed units, report.json, config.yaml and figures, nothing else of the folder, and without places and
    secrets of this machine (`published.py`); files of an earlier run are deleted, and of a README there only the
    section is replaced; what is left out is logged. A repository that is missing is made, but not for a pull request.
    ValueError where the folder is no run, or where a private repository is asked for and the one there is public: a
    run names its units. OSError as in `hub_errors`.
    """
    from huggingface_hub import CommitOperationDelete

    outcome, api = read_outcome(folder), _writing()
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    own = {name: path for name, path in paths.items() if is_run_file(name)}
    added: dict[str, bytes | Path] = {name: inside(folder, path, LARGEST) for name, path in own.items()}
    reduced_run = published(folder)
    added |= reduced_run.files
    for note in reduced_run.notes:
        logger.warning(note)
    with hub_errors(repo_id):
        if not create_pr:
            api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        info = api.repo_info(repo_id, repo_type="dataset")
        if private and not info.private:
            raise ValueError(f"{repo_id} is public, and a run names its units: add --public, or name another one.")
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=info.sha)
        readme = _readme(api, repo_id, "dataset", info.sha) or _new_readme(outcome, repo_id, list(added))
        added["README.md"] = with_section(readme, section(outcome)).encode("utf-8")
        stale = [CommitOperationDelete(name) for name in there if is_run_file(name) and name not in added]
        made = api.create_commit(
            repo_id,
            [*_additions(added), *stale],
            commit_message="Add a membership inference audit",
            repo_type="dataset",
            create_pr=create_pr,
            parent_commit=info.sha,
        )
    return made.pr_url or str(made.commit_url)


def fetch_run(repo_id: str, revision: str | None = None) -> Path:
    """A run folder from the Hub, checked before anything is computed from it; it stays in the Hub's own cache.

    Only the files that `push_run` writes are fetched. ValueError where they are too many or too large, or where
    report.json, config.yaml or the evidence are not what an audit writes; OSError as in `hub_errors`.
    """
    from huggingface_hub import HfApi, RepoFile, snapshot_download

    api = HfApi()
    with hub_errors(repo_id):
        head = api.repo_info(repo_id, repo_type="dataset", revision=revision).sha
        tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=head, recursive=True)
        listed = list(islice(tree, MOST + 1))
        sizes = {one.path: one.size for one in listed if isinstance(one, RepoFile) and is_run_file(one.path)}
        if len(listed) > MOST or sum(sizes.values()) > LARGEST:
            raise ValueError(
                f"{repo_id} holds {len(listed):,} files or more, and {sum(sizes.values()):,} bytes of a run: at most "
                f"{MOST:,} and {LARGEST:,} are fetched."
            )
        if "report.json" not in sizes:
            raise ValueError(f"{repo_id} holds no report.json: name a dataset that `hf-mia push` wrote.")
        wanted = [glob.escape(name) for name in sizes]
        folder = Path(snapshot_download(repo_id, repo_type="dataset", revision=head, allow_patterns=wanted))
    check_evidence(folder, read_outcome(folder))
    return folder


def run_folder(place: Path) -> Path:
    """A run's folder: the place itself, or, where there is none and it reads as an id, what the Hub holds under it."""
    name = place.as_posix()
    return fetch_run(name) if not place.exists() and IDENTIFIER.fullmatch(name) else place


def is_run_file(name: str) -> bool:
    """Whether a path in a repository is one of a run folder's: report, config, figures, evidence, exposed units."""
    match name.split("/"):
        case ["report.json" | "config.yaml"]:
            return True
        case ["figures", last]:
            return last.endswith(".png")
        case ["exposed", last]:
            return last.endswith(".parquet")
        case ["evidence", attack, last]:
            return attack not in {"", ".", ".."} and last.endswith(".parquet")
    return False


def check_evidence(folder: Path, outcome: Outcome) -> None:
    """Raise ValueError unless each attack's evidence about the target is there, and all files have its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"unit": pa.string(), "member": pa.float64(), "features": pa.list_(pa.float64())}
    for name in outcome.reports:
        if not (folder / "evidence" / file_name(name) / "target.parquet").is_file():
            raise ValueError(f"{folder} holds no evidence of {name!r}.")
    unpacked = 0
    for path in sorted(folder.glob("evidence/*/*.parquet")):
        try:
            file = pq.ParquetFile(path)
            found = {field.name: field.type for field in file.schema_arrow}
            unpacked += sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not Parquet: {error}.") from error
        if found.keys() != kinds.keys() or any(not found[key].equals(kind) for key, kind in kinds.items()):
            raise ValueError(f"{path} must have the columns {kinds}, but has {found}.")
    if unpacked > LARGEST:
        raise ValueError(f"the evidence in {folder} takes {unpacked:,} bytes, and at most {LARGEST:,} are read.")


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Says in one line, without a token, what the Hub refused and what to do; which is which by the kind of OSError.

    PermissionError: no token, one that is not valid or may not write, or a gated repository. FileNotFoundError: no such
    repository or revision. ConnectionError: the Hub is down or unreachable. ValueError: it refused the content.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError as error:  # before RepositoryNotFoundError, whose subclass it is
        raise PermissionError(
            f"{repo_id} is gated: ask for access on its page, and take a token that has it."
        ) from error
    except hub.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id} has no such revision: name a branch, a tag or a commit.") from error
    except hub.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {repo_id} on the Hub, or it is private and the token cannot see it: check the id, then the "
            "token."
        ) from error
    except hub.LocalTokenNotFoundError as error:
        raise PermissionError("no token: run `hf auth login`, or set HF_TOKEN to one that may write.") from error
    except hub.HfHubHTTPError as error:
        raise _refused(error, repo_id) from error
    except (hub.HTTPError, hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:  # type: ignore[attr-defined]
        raise ConnectionError(f"the Hub cannot be reached about {repo_id} ({_first(error)}). {AGAIN}") from error


def _refused(error: HfHubHTTPError, repo_id: str) -> OSError | ValueError:
    status = error.response.status_code
    if status == 401:
        return PermissionError("the token is not valid: run `hf auth login`, or set HF_TOKEN to another.")
    if status == 403:
        return PermissionError(f"the token may not do this in {repo_id}: take one with write access to it.")
    if status in (409, 412):
        return ConnectionError(f"{repo_id} changed meanwhile: run the same command again.")
    if status >= 500 or status == 429:
        return ConnectionError(f"the Hub answered {status} about {repo_id}. {AGAIN}")
    return ValueError(f"the Hub refused the content for {repo_id} ({status}): {_first(error)}.")


def _first(error: Exception) -> str:
    """The first line of a message, without the token, should a server have repeated it."""
    from huggingface_hub import get_token

    line = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return line.replace(get_token() or "\n", "***")


def _writing() -> HfApi:
    """The Hub as one who may write: it asks for a token."""
    from huggingface_hub import HfApi

    return HfApi(token=True)


def _readme(api: HfApi, repo_id: str, kind: str, revision: str | None) -> str:
    """The card's text, to the byte; empty where there is none."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return decoded(Path(api.hf_hub_download(repo_id, "README.md", repo_type=kind, revision=revision)).read_bytes())
    except RemoteEntryNotFoundError:
        return ""


def _additions(added: Mapping[str, bytes | Path]) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(name, content) for name, content in added.items()]


def _new_readme(outcome: Outcome, repo_id: str, names: list[str]) -> str:
    """A dataset card whose front matter tells the viewer of every attack's evidence."""
    configs = []
    for name in outcome.reports:
        place = f"evidence/{file_name(name)}/"
        shadows = [glob.escape(one) for one in names if one.startswith(f"{place}shadow-") and ".reference-" not in one]
        splits = [{"split": "target", "path": glob.escape(f"{place}target.parquet")}]
        splits += [{"split": "shadows", "path": shadows}] if shadows else []  # type: ignore[dict-item]
        configs.append({"config_name": file_name(name), "data_files": splits})
    header = yaml.safe_dump(
        {"tags": ["membership-inference", "hf_mia"], "configs": configs}, sort_keys=False, allow_unicode=True
    )
    text = files("hf_mia.publish").joinpath("dataset_card.md").read_text(encoding="utf-8")
    return Template(text).substitute(header=header, target=reduced(outcome.target), repo=repo_id)
