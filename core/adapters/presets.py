"""The block-weight presets that are built in, in the format of a preset file.

The first set is the lora-block-weight extension's, with the community's NOFACE, FACE and LyNOFACE.
ArtLab is the older table of the PAI ArtLab course, whose INS, IND, INALL, OUTD, OUTS and OUTALL
differ by one block; NOT and ALL, printed there one value short, and LyNOFACE, printed without
OUT11, stand at full length.
"""

_BUILT_IN = """
NONE:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
NOT:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
ALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
ALL0.5:.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5,.5
INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0
IND:1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0
INALL:1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0
MIDD:1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0
OUTD:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0
OUTS:1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1
OUTALL:1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1
NOFACE:1,1,1,1,1,1,1,1,0,0,0,1,1,1,1,1,1
FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0
LyNOFACE:1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,1,0,0,0,0,1,1,1,1,1,1
"""

_ARTLAB = """
NOT:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
ALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
INS:1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0
IND:1,0,0,0,1,1,1,1,0,0,0,0,0,0,0,0,0
INALL:1,1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0
MIDD:1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0
OUTD:1,0,0,0,0,0,0,0,1,1,1,1,1,0,0,0,0
OUTS:1,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1
OUTALL:1,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1
NOFACE:1,1,1,1,1,1,1,1,0,0,0,1,1,1,1,1,1
LyNOFACE:1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,1,0,0,0,0,1,1,1,1,1,1
"""

_FOR_SD1_ONLY = {"NOFACE", "FACE", "LyNOFACE"}
"""No face blocks are agreed on for SDXL."""

KNOWN_ELSEWHERE = frozenset(
    {"NONE", "ALL", "INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL", "ALL0.5"}
)
"""What every installation of the lora-block-weight extension has."""


def _table(text: str, folder: str = "") -> dict[str, tuple[float, ...]]:
    lines = (line.split(":", 1) for line in text.split())
    return {folder + name: tuple(map(float, values.split(","))) for name, values in lines}


PRESETS: dict[str, tuple[float, ...]] = _table(_BUILT_IN) | _table(_ARTLAB, "ArtLab/")
"""Name -> SD1 vector of 17 or 26 values; NONE, NOT, ALL and ALL0.5 mean every block there is."""


def preset_names(family: str = "sd1") -> tuple[str, ...]:
    """Return the names that mean something for a family of models ("sd1", "sd2", "sdxl")."""
    if family != "sdxl":
        return tuple(PRESETS)
    return tuple(name for name in PRESETS if name.rpartition("/")[2] not in _FOR_SD1_ONLY)
