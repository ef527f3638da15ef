"""Stored configs: what the files of the user's folder and of the package say of a problem on a device.

Looked up in this order: the user's folder, then the package's; in each the file of this very GPU, then one under an
alias of its name, then those of GPUs of the same architecture with like resources; among their entries measured ones
first, then the nearest sizes. Files are data and never trusted: one that cannot be read or understood costs a warning.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ..planning.config import Config
from ..planning.problem import Problem
from .devices import DeviceSpec, find_device, normalised
from .schema import Entry, Gpu, class_of, gpu_of, read_entry, read_file, sizes_of
from .sources import compiler_versions, kernel_hash

FOLDER_VARIABLE = "TRITON_BILINEAR_CONFIGS"

# GPUs are alike whose numbers of SMs differ by no more than this.
_LIKE_SM_COUNT = 1.125


class StoredConfigWarning(UserWarning):
    """A file of stored configs is not used, or is stale."""


@dataclass(frozen=True)
class Stored:
    """A stored plan. problem: the one it was found for. source: its file. The rest as in planning.Plan."""

    problem: Problem
    config: Config
    order: tuple[str, ...]
    splits: int
    groups: int
    origin: str
    source: str


@dataclass(frozen=True)
class ConfigFile:
    """A file of stored configs. raw: its entries, yet to be read."""

    path: Path
    gpu: Gpu
    raw: list[Any]

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Those that can be understood."""
        return tuple(entry for number, data in enumerate(self.raw, 1) for entry in self._entry(number, data))

    @cached_property
    def by_class(self) -> dict[tuple[Any, ...], list[Entry]]:
        """The entries that share with a problem all but sizes."""
        found: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(class_of(entry.problem), []).append(entry)
        return found

    def _entry(self, number: int, data: Any) -> Iterator[Entry]:
        try:
            yield read_entry(data)
        except ValueError as error:
            report(f"{self.path}: entry {number} is not used: {error}")


def user_folder() -> Path | None:
    """Where the user's files are: the environment variable says, ~/.triton_bilinear without it; None if it is empty, or
    for a user without a home.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        return Path("~/.triton_bilinear").expanduser()
    except RuntimeError:
        return None


def package_folder() -> Path:
    """Where the files are that came with the package: inside it, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "tune_configs"
    return inside if inside.is_dir() else package.parent / "tune_configs"


def lookup(problem: Problem, device: DeviceSpec) -> Iterator[Stored]:
    """The entries that serve the problem on the device, best first."""
    kind, sizes = class_of(problem), sizes_of(problem)
    for file in files_for(device):
        serving = [entry for entry in file.by_class.get(kind, ()) if _serves(entry, sizes)]
        for entry in sorted(serving, key=lambda entry: (entry.origin != "measured", _distance(entry, sizes))):
            if entry.kernel_hash != kernel_hash(entry.config.kernel):
                report(f"{file.path}: entries for other kernels than this version's are not used")
                continue
            if entry.versions != compiler_versions(device.architecture):
                report(f"{file.path}: stale, found with {_in_words(entry)}; used nevertheless")
            origin, source = entry.origin, str(file.path)
            yield Stored(entry.problem, entry.config, entry.order, entry.splits, entry.groups, origin, source)


def files_for(device: DeviceSpec) -> list[ConfigFile]:
    """The files whose entries may serve the device, in the order of the lookup."""
    return [file for folder in (user_folder(), package_folder()) if folder for file in _files_in(folder, device)]


def report(message: str) -> None:
    """Warn, once."""
    if message not in _reported:
        _reported.add(message)
        warnings.warn(message, StoredConfigWarning, stacklevel=2)


def forget() -> None:
    """Read the files again when next asked."""
    read_folder.cache_clear()
    _files_in.cache_clear()


_reported: set[str] = set()


@cache
def _files_in(folder: Path, device: DeviceSpec) -> list[ConfigFile]:
    files = [(_match(file.gpu, device), file) for file in read_folder(folder)]
    return [file for _, file in sorted((file for file in files if file[0] is not None), key=lambda file: file[0] or 0)]


@cache
def read_folder(folder: Path) -> tuple[ConfigFile, ...]:
    """The files of a folder that can be read, by name; none for a folder that is not there."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return ()
    except OSError as error:
        report(f"{folder} is not used: {error.strerror}")
        return ()
    return tuple(file for path in paths if (file := read_config_file(path)) is not None)


def read_config_file(path: Path) -> ConfigFile | None:
    """The file; None where there is none (any more), or none that can be understood, which is reported."""
    try:
        return ConfigFile(path, *read_file(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        report(f"{path} is not used: {error}")
        return None


def _match(gpu: Gpu, device: DeviceSpec) -> int | None:
    """0 for this very GPU, 1 for an alias, 2 for one alike, None for another."""
    same, name = gpu_of(device), normalised(device.name)
    if astuple(gpu)[1:] == astuple(same)[1:]:
        if normalised(gpu.name) == name:
            return 0
        if _canonical(gpu.name) == _canonical(device.name):
            return 1
    few, many = sorted((gpu.sm_count, device.sm_count))
    alike = many <= _LIKE_SM_COUNT * few and gpu.shared_memory == device.shared_memory
    return 2 if alike and gpu.architecture == device.architecture else None


def _canonical(name: str) -> str:
    try:
        return find_device(name).name
    except LookupError:
        return normalised(name)


def _serves(entry: Entry, sizes: dict[str, int]) -> bool:
    return all(entry.serves[name][0] <= size <= entry.serves[name][1] for name, size in sizes.items())


def _distance(entry: Entry, sizes: dict[str, int]) -> float:
    own = sizes_of(entry.problem)
    return sum(abs(math.log(size / own[name])) for name, size in sizes.items())


def _in_words(entry: Entry) -> str:
    return ", ".join(f"{name} {version}" for name, version in entry.versions.items() if version)
