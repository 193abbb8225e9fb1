"""What was measured, as text for a terminal and as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from martlet.bench.machine import Limits, Machine
from martlet.errors import ArgumentError, MissingDependencyError
from martlet.formats.files import write_aside

PLOT_KINDS = (".png", ".svg", ".pdf")


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """The facts of a machine, a name and a text each."""
    quota = "none" if machine.quota is None else f"{machine.quota:g} processors"
    return [
        ("processor", machine.processor),
        ("system", machine.system),
        ("processors", f"{machine.num_processors}, of which this process may use {machine.affinity}"),
        ("group's quota", quota),
        ("threads used", f"{machine.num_threads}: {machine.threads_reason}"),
        (
            "memory",
            f"{machine.memory_bytes / 1e9:.1f} GB; the largest cache {machine.largest_cache_bytes / 1e6:.0f} MB",
        ),
        ("instruction set used", f"{machine.isa}: {machine.reason}"),
    ]


def set_rows(machine: Machine) -> list[tuple[str, str, str]]:
    """Every instruction set there are kernels for."""
    rows = []
    for each in machine.sets:
        word = "used" if each.name == machine.isa else "there" if each.is_usable else "not here"
        rows.append((each.name, word, f"needs {each.needs}"))
    return rows


def limit_rows(limits: Limits) -> list[tuple[str, str, str]]:
    """What the machine gives: name, best, and the rest."""
    read = limits.memory_read
    rows = [("memory read", f"{read.best / 1e9:.1f} GB/s", f"median {read.median / 1e9:.1f}")]
    if limits.model_read is not limits.memory_read:
        close = limits.model_read
        rows.append(
            ("as many bytes as the model's", f"{close.best / 1e9:.1f} GB/s", f"median {close.median / 1e9:.1f}")
        )
    for peak in limits.peaks.values():
        rate = peak.operations
        rows.append(
            (f"{peak.operand} multiply", f"{rate.best / 1e9:.0f} Gop/s", f"median {rate.median / 1e9:.0f}; {peak.how}")
        )
    return rows


def check_plot(path: str) -> None:
    """MissingDependencyError without matplotlib, ArgumentError for a name it cannot write: before anything is run."""
    if os.path.splitext(path)[1].lower() not in PLOT_KINDS:
        raise ArgumentError("--plot", f"must end in {', '.join(PLOT_KINDS)}", found=path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib", "is needed for --plot", remedy="Install it: pip install 'martlet[plot]'."
        ) from error


def plot(path: str, title: str, series: Mapping[str, Mapping[str, Any]]) -> None:
    """Bars of the medians, a dot for each run, of prefill and decode; `series` as in the JSON."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.6 * len(series)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(1, 2)
    for panel, of in zip(panels, ("prefill", "decode"), strict=True):
        for place, (name, measured) in enumerate(reversed(list(series.items()))):
            panel.barh(place, measured[of]["median"], color="tab:blue" if name == "martlet" else "tab:gray")
            panel.plot(measured[of]["runs"], [place] * len(measured[of]["runs"]), "k.", markersize=4)
        panel.set_yticks(range(len(series)), list(reversed(list(series))))
        panel.set_xlabel(f"{of}, tokens/s")
    image = io.BytesIO()
    figure.savefig(image, format=os.path.splitext(path)[1][1:].lower())
    with write_aside(path) as file:
        file.write(image.getvalue())
