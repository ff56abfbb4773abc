"""Importers: any known shape of conversation into ours.

Each format is a function from one value to the conversations in it (`known.py` has them by name, `turns.py`,
`problem.py`, `tutoring.py`, `singles.py` and `logs.py` by kind); `import_files` reads whole files, folders and
datasets. No text is changed: only speaker labels and a teacher's move tag, which nobody said, are taken off.
"""

from maieutic.data.formats.importing import ImportReport, import_files
from maieutic.data.formats.known import FORMATS, guess
from maieutic.data.formats.turns import from_turns
from maieutic.data.formats.tutoring import last_number

__all__ = ["FORMATS", "ImportReport", "from_turns", "guess", "import_files", "last_number"]
