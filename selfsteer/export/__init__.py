"""Exports rows of a run or a file in the formats of other trainers, with a card, and reads them back."""

from selfsteer.export.authors import read_authors
from selfsteer.export.card import Licence, RunFacts
from selfsteer.export.dataset import export_file, export_folder
from selfsteer.export.formats import FORMATS, Format, Layout
from selfsteer.export.hub import check_repository, push
from selfsteer.export.options import Exported, ExportOptions
from selfsteer.export.readers import read_contrasts, read_source
