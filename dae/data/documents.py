"""Documents: synthetic scans of pages with random text, tables and headings, drawn with Pillow and Matplotlib's fonts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dae import random_streams
from dae.data.arrays import Block, DataError
from dae.data.folders import cut_patches
from dae.schemas import Images

PATCH = 64
VERSION = "5c97cedebcce67d30778ae48edda3fce85aeb58a4fb19f153f785723949f8639"
"""Version of how pages are drawn. It is part of the images' digest: with another version, they are drawn again."""
WIDTH, HEIGHT = 640, 896
PAGES = {"train": 80, "test": 20}
FAMILIES = (
    ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"),
    ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSansMono-Oblique.ttf"),
    ("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
)
"""Regular, bold and slanted face of each family."""
WORDS = """
a able about above account after again against all almost along also although always among an and another any are area as at
back be became because been before began behind being below best better between beyond board body both box bring built but by
called came can case certain change church clear close cold come common could country course cut dark day deep did different do
done door down each early earth east either end enough even ever every example eye face fact far feet few field figure find
first five follow food for form found four free from front full gave general give given go good great ground group had half
hand has have he head heat held help her here high him his hold home hour house how hundred if in inside into is it its just
keep kept kind king knew know land large last late later law lay learn left less let letter life light like line list little
long look made main make man many mark matter may mean measure men might mile mind money month more most mother mountain move
much music must my name near need never new next night no north not note nothing now number of off office often old on once one
only open or order other our out over own page paper part pass pattern people perhaps piece place plan plant point possible
power present press public put question quick quite rain ran reach read ready real record report rest right river road rock
room round rule run said same saw say school sea second see seem sentence serve set several shall she ship short should show
side simple since six size slow small snow so some song soon sound south space stand star start state stay step still stood
stop story street strong study such sun sure surface system table take talk tell ten than that the their them then there these
they thing think this those though thought thousand three through time to today together told too took top toward town travel
tree true try turn two under unit until up upon use usual very voice vowel walk want war warm was watch water way we week
weight well went were west what wheel when where whether which while white who whole why will wind winter with without wonder
wood word work world would write year yes yet you young your
""".split()  # noqa: SIM905
"""The words on the pages; the order has no meaning."""


def source_files() -> tuple[Path, ...]:
    """Return the fonts that the pages are drawn with.

    Raises
    ------
    DataError
        If a font is missing.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = tuple(folder / face for family in FAMILIES for face in family)
    for path in fonts:
        if not path.is_file():
            raise DataError(path, "documents needs the fonts in Matplotlib's wheel", "no such file")
    return fonts


def iterate_blocks(split: str, patch: int) -> Iterator[Block]:
    """Yield the patches of each page of a split, ``train`` or ``test``, one block for each page."""
    for number in range(PAGES[split]):
        yield cut_patches(draw_page(split, number), patch, Path(f"documents/{split}/{number}"))


def draw_page(split: str, number: int) -> Block:
    """Return one page, the same each time: uint8, shape ``(HEIGHT, WIDTH, 1)``."""
    random = random_streams.make_stream(0, "documents", split, number)
    grey = _scanned(_typeset(random), random)
    return np.rint(grey * 255).astype(np.uint8)[..., None]


@dataclass
class Column:
    """A column of text while it is drawn: `y` is the position of the next line."""

    draw: Any
    random: np.random.Generator
    left: int
    right: int
    y: int

    def heading(self, family: tuple[str, ...], size: int) -> None:
        """Write a line of a few words, large and bold."""
        size = round(size * self.random.uniform(1.3, 1.9))
        self._line(_sentence(self.random, 4).rstrip(".?;"), _font(family[1], size), size)
        self.y += size // 2

    def paragraph(self, family: tuple[str, ...], size: int) -> None:
        """Write some sentences, broken into lines at the column's width."""
        font = _font(family[0 if self.random.random() < 0.8 else 2], size)
        line = ""
        for word in " ".join(_sentence(self.random, 12) for _ in range(self.random.integers(2, 6))).split():
            if self.draw.textlength(f"{line} {word}", font) > self.right - self.left:
                self._line(line, font, size)
                line = ""
            line = f"{line} {word}".strip()
        self._line(line, font, size)
        self.y += size

    def table(self, family: tuple[str, ...], size: int) -> None:
        """Write rows of a word and some numbers between rules."""
        font, width = _font(family[0], size), self.right - self.left
        for _ in range(self.random.integers(3, 9)):
            self.draw.line((self.left, self.y, self.right, self.y), fill=255, width=1)
            self.y += 3
            cells = [self.random.choice(WORDS), *(f"{value:.2f}" for value in self.random.uniform(0, 500, 3))]
            for number, cell in enumerate(cells):
                self.draw.text((self.left + 4 + number * width // 4, self.y), str(cell), 255, font)
            self.y += round(1.35 * size)
        self.draw.line((self.left, self.y, self.right, self.y), fill=255, width=2)
        self.y += size

    def _line(self, text: str, font: Any, size: int) -> None:
        self.draw.text((self.left, self.y), text, 255, font)
        self.y += round(1.35 * size)


def _typeset(random: np.random.Generator) -> Any:
    """Return the ink of a page, 0 to 255, as an image: one column or two, filled from the top."""
    from PIL import Image, ImageDraw

    ink = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(ink)
    family, size = FAMILIES[random.integers(len(FAMILIES))], int(random.integers(10, 18))
    margin, columns = int(random.integers(24, 56)), int(random.integers(1, 3))
    width = (WIDTH - margin * (columns + 1)) // columns
    for number in range(columns):
        left = margin + number * (width + margin)
        column = Column(draw, random, left, left + width, margin)
        while column.y < HEIGHT - 2 * margin:
            kind = random.choice(["heading", "paragraph", "table"], p=[0.2, 0.6, 0.2])
            getattr(column, kind)(family, size)
    return ink


def _scanned(ink: Any, random: np.random.Generator) -> Images:
    """Return the scanned page in [0, 1]: slightly rotated, slightly out of focus, with light from one side."""
    from PIL import Image, ImageFilter

    rotated = ink.rotate(random.uniform(-1.5, 1.5), Image.Resampling.BICUBIC)
    blurred = rotated.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.8)))
    black = np.asarray(blurred, np.float32) / 255
    paper, dark = random.uniform(0.84, 0.97), random.uniform(0.02, 0.25)
    across, down = random.uniform(-0.06, 0.06, 2)
    rows, columns = np.ogrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    light = 1 + across * columns + down * rows
    return np.asarray(np.clip((paper + black * (dark - paper)) * light, 0, 1), np.float32)


def _sentence(random: np.random.Generator, longest: int) -> str:
    words = random.choice(WORDS, random.integers(3, longest + 1)).tolist()
    if longest > 4 and random.random() < 0.3:
        words[-1] = str(random.integers(1, 10_000))
    return " ".join(words).capitalize() + str(random.choice([".", ".", ".", "?", ";"]))


@cache
def _font(face: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(next(path for path in source_files() if path.name == face), size)
