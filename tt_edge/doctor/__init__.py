"""What this machine has, what a bundle needs of it, and which known faults of the two apply. Torch-free.

``examine`` gathers facts (``system``, ``memory``, ``gpu``, ``software``), and from them findings (``machine_findings``,
``needs``, ``traps``). Files are read below a ``root``, so that recorded trees of real devices are examined in the same way.
"""

from tt_edge.doctor.findings import Finding, Level
from tt_edge.doctor.report import Report, examine

__all__ = ["Finding", "Level", "Report", "examine"]
