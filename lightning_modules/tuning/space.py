"""What is searched: hyperparameters with bounds and a scale, read from a YAML file.

On a linear scale a value is uniform in [low, high]; on a log scale r is uniform in
[log10 low, log10 high] and the value is 10^r. What an average of about 1 / (1 − β) values does is
ruled by 1 − β, which is therefore drawn, on a log scale: β = 1 − 10^r.

Source: lecture, "Tuning process", "Using an Appropriate Scale", "Hyperparameters for exponentially
weighted average".
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SPACES = Path(str(files("lightning_modules"))) / "tuning" / "spaces"
Config = dict[str, Any]


@dataclass(frozen=True)
class Hyperparameter:
    """One row of a search space.

    Args:
        name: in tables and plots.
        key: where its value goes in the configuration, as on the command line: model.optimizer.lr;
            a number counts the entries of a list, from 0.
        low: smallest value; integers are drawn as integers.
        high: largest value.
        scale: "linear": the value is uniform; "log": its logarithm is.
        choices: the values, instead of bounds.
        complement: write 1 - value.
        repeats: instead of a key: the name of another row, whose value is written so many times.

    Raises:
        ValueError: naming the row and what makes no sense in it.

    Example:
        >>> beta = Hyperparameter("1 - β", "model.beta", low=0.001, high=0.1, scale="log",
        ...                       complement=True)
        >>> round(beta.written(0.02), 6)
        0.98
    """

    name: str
    key: str | None = None
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    choices: Sequence[Any] | None = None
    complement: bool = False
    repeats: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key if self.repeats is None else self.repeats, str) or (
            self.key and self.repeats
        ):
            self._refuse("needs a key, or repeats: the name of another hyperparameter")
        if self.scale not in ("linear", "log"):
            self._refuse(f"scale must be linear or log, got {self.scale!r}")
        if self.choices is not None:
            if not isinstance(self.choices, list | tuple) or not self.choices:
                self._refuse(f"choices must be a list, got {self.choices!r}")
            if self.low is not None or self.high is not None or self.complement:
                self._refuse("choices go without low, high and complement")
            return
        for end, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._refuse(f"{end} must be a number (1.0e-3, not 1e-3, in YAML), got {value!r}")
        if not (self._low < self._high < float("inf")):
            self._refuse(f"low must be below high, got {self.low} and {self.high}")
        if self.scale == "log" and self._low <= 0:
            self._refuse(f"low must be above 0 on a log scale, got {self.low}")
        if self.repeats and not (self._whole and self._low >= 0):
            self._refuse("repeats needs bounds that are whole numbers")

    def _refuse(self, why: str) -> None:
        raise ValueError(f"{self.name}: {why}")

    @property
    def _low(self) -> float:
        return float("nan") if self.low is None else self.low

    @property
    def _high(self) -> float:
        return float("nan") if self.high is None else self.high

    @property
    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: BaseTrial) -> Any:
        """Have a trial draw a value; choices that are lists are named by their JSON text."""
        if self.choices is not None:
            return trial.suggest_categorical(self.name, [_plain(c) for c in self.choices])
        log = self.scale == "log"
        if self._whole:
            return trial.suggest_int(self.name, int(self._low), int(self._high), log=log)
        return trial.suggest_float(self.name, self._low, self._high, log=log)

    def written(self, value: Any) -> Any:
        """Return what a drawn value is in the configuration."""
        if self.choices is not None:
            return next(choice for choice in self.choices if _plain(choice) == value)
        return 1 - value if self.complement else value


Space = tuple[Hyperparameter, ...]


def _plain(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | dict | tuple) else choice


def find_space(name: str | None, config: str) -> Path:
    """Return the file of a search space: as given, or the one that comes with a configuration.

    Raises:
        ValueError: there is none.
    """
    wanted = Path(config).stem if name is None else name
    packaged = SPACES / f"{wanted}.yaml"
    for path in (packaged,) if name is None else (Path(name), packaged):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in SPACES.glob("*.yaml")))
    raise ValueError(
        f"--space: there is no search space {wanted!r}: give a file, or one of {shipped}"
    )


def load_space(path: Path) -> Space:
    """Read a search space.

    Raises:
        ValueError: naming the file, the row and what makes no sense in it.

    Example:
        >>> [row.name for row in load_space(find_space(None, "mlp"))][:2]
        ['learning rate', '1 - beta1']
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--space {path}: {error}") from error
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"--space {path}: must be a mapping of names to bounds")
    try:
        return space_from(rows)
    except ValueError as error:
        raise ValueError(f"--space {path}: {error}") from error


def space_from(rows: Mapping[str, Any]) -> Space:
    """Build a search space from plain data: what a YAML file, or a study, holds."""
    known = {field.name for field in fields(Hyperparameter)} - {"name"}
    space = []
    for name, row in rows.items():
        if not isinstance(row, dict) or row.keys() - known:
            got = sorted(map(str, row.keys() - known)) if isinstance(row, dict) else row
            raise ValueError(f"{name}: takes {', '.join(sorted(known))}; got {got}")
        space.append(Hyperparameter(str(name), **row))
    names = {row.name for row in space if row.repeats is None}
    for row in space:
        if row.repeats is not None and row.repeats not in names:
            raise ValueError(f"{row.name}: repeats {row.repeats!r}, which is none of {names}")
    return tuple(space)


def suggest(space: Space, trial: BaseTrial) -> dict[str, Any]:
    """Have a trial draw every hyperparameter.

    Example:
        >>> from optuna.trial import FixedTrial
        >>> space = space_from({"α": {"key": "lr", "low": 0.001, "high": 0.1, "scale": "log"}})
        >>> suggest(space, FixedTrial({"α": 0.01}))
        {'α': 0.01}
    """
    return {row.name: row.suggest(trial) for row in space}


def configured(base: Config, space: Space, params: Mapping[str, Any]) -> Config:
    """Return a copy of a configuration with drawn values in their places.

    Raises:
        ValueError: a key leads through something that is neither a mapping nor a list.

    Example:
        >>> rows = {"units": {"key": "net.hidden", "low": 1, "high": 99},
        ...         "layers": {"repeats": "units", "low": 1, "high": 3}}
        >>> configured({"net": {"bias": True}}, space_from(rows), {"units": 32, "layers": 2})
        {'net': {'bias': True, 'hidden': [32, 32]}}
    """
    config = copy.deepcopy(base)
    times = {row.repeats: params[row.name] for row in space if row.repeats is not None}
    for row in space:
        if row.key is not None:
            value = row.written(params[row.name])
            _assign(config, row.key, [value] * times[row.name] if row.name in times else value)
    return config


def _assign(config: Any, key: str, value: Any) -> None:
    *way, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    try:
        for part, following in zip(way, [*way[1:], last], strict=True):
            config = _arguments(config, part)
            if not isinstance(part, int) and config.get(part) is None:
                config[part] = [] if isinstance(following, int) else {}
            config = config[part]
        config = _arguments(config, last)
        if isinstance(last, int) and last == len(config):
            config.append(value)
        else:
            config[last] = value
    except (TypeError, IndexError, AttributeError, KeyError) as error:
        raise ValueError(f"--space: there is no place for {key} in the configuration") from error


def _arguments(config: Any, part: int | str) -> Any:
    # An object of the configuration has its arguments one level below.
    if isinstance(config, dict) and "class_path" in config and part not in config:
        return config if part == "init_args" else config.setdefault("init_args", {})
    return config
