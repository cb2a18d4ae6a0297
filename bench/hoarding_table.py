"""What ``hoarding`` found, as tables a person can read."""

from collections.abc import Sequence

from rich.table import Table

from bench.hoarding_cells import Cell
from bench.hoarding_measures import Outcome


def grid_table(found: Sequence[Outcome]) -> Table:
    """A row for each way in each cell."""
    table = _table("how a worker comes by its jobs")
    _fill(table, found)
    return table


def threshold_table(found: Sequence[Outcome]) -> Table:
    """The same, where only the threshold differs."""
    table = _table("how long a job runs before the consumers are stopped")
    _fill(table, found)
    return table


def _table(title: str) -> Table:
    table = Table("jobs of", "residents", "workers", "way", title=title, title_justify="left")
    for heading in ("wait mean ms", "p99 ms", "drain", "hoarded %", "s in all", "against the rule %", "s in all"):
        table.add_column(heading, justify="right")
    for heading in ("operations a job", "handed back a job", "given up"):
        table.add_column(heading, justify="right")
    return table


def _fill(table: Table, found: Sequence[Outcome]) -> None:
    before: Cell | None = None
    for each in sorted(found, key=lambda each: each.cell):
        if before not in {None, each.cell}:
            table.add_section()
        before = each.cell
        shape = (f"{each.cell.exec_s:g} s", str(each.cell.residents), str(each.cell.workers), each.way.name)
        waits = (f"{each.mean_wait_s * 1000:.1f}", f"{each.p99_wait_s * 1000:.1f}", f"{each.drain:.2f}")
        lain = (f"{each.hoarded * 100:.1f}", f"{each.hoarded_s:.3f}")
        against = (f"{each.ruled_out * 100:.1f}", f"{each.ruled_out_s:.3f}")
        asked = (f"{each.operations:.2f}", f"{each.handed_back:.2f}", str(each.parked))
        table.add_row(*shape, *waits, *lain, *against, *asked)
